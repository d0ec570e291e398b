-- Takes a log's retirement back.
--
-- KEYS: log:<id>, evidence:<id>. ARGV: who said that it is over (`list` or `command`); another's word
-- is not taken back.
-- Returns 1, or 0 if there was nothing to take back.

local LOG, EVIDENCE = KEYS[1], KEYS[2]

local retiring = redis.call('HGET', LOG, 'retiring')
if not retiring or cjson.decode(retiring).by ~= ARGV[1] then
  return 0
end
redis.call('PERSIST', LOG)
redis.call('PERSIST', EVIDENCE)
redis.call('HDEL', LOG, 'retiring', 'retired', 'retired_why')
return 1
