-- Purpose: take the retirement of a log back.
-- KEYS: log:<id>, evidence:<id>.
-- ARGV: source of the retirement, `list` or `command`; a retirement of the other source stays.
-- Returns: 1, or 0 if the log has no retirement of this source.

local LOG, EVIDENCE = KEYS[1], KEYS[2]

local retiring = redis.call('HGET', LOG, 'retiring')
if not retiring or cjson.decode(retiring).by ~= ARGV[1] then
  return 0
end
redis.call('PERSIST', LOG)
redis.call('PERSIST', EVIDENCE)
redis.call('HDEL', LOG, 'retiring', 'retired', 'retired_why')
return 1
