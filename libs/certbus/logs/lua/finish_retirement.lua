-- Purpose: mark a drained log as retired: its lease ends, and no worker can acquire another one.
-- KEYS: log:<id>, lease:<id>, evidence:<id>.
-- ARGV: worker, fence, ms for which a log that a list retired stays visible, the worker's next entry to
-- publish.
-- Returns: 1, or 0 if the lease was lost before, the retirement was taken back, or Redis lost entries.

local LOG, LEASE, EVIDENCE = KEYS[1], KEYS[2], KEYS[3]

local log = redis.call('HMGET', LOG, 'fence', 'retiring', 'next')
if log[1] ~= ARGV[2] or not log[2] or log[3] ~= ARGV[4] or redis.call('GET', LEASE) ~= ARGV[1] then
  return 0
end
redis.call('DEL', LEASE) -- first, because a full Redis accepts it
redis.call('HSET', LOG, 'retired', text(now_ms()))
redis.call('HDEL', LOG, 'owner')
if cjson.decode(log[2]).by ~= 'command' then -- a log that an operator retired stays retired
  redis.call('PEXPIRE', LOG, ARGV[3])
  redis.call('PEXPIRE', EVIDENCE, ARGV[3])
end
return 1
