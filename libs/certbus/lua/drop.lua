-- Drops a drained log: its lease ends, and nobody gets another one.
--
-- KEYS: log:<id>, lease:<id>, evidence:<id>. ARGV: worker, fence, ms for which the log is still shown.
-- Returns 1, or 0 if the lease was lost before, or the log is no longer to be dropped.

local LOG, LEASE, EVIDENCE = KEYS[1], KEYS[2], KEYS[3]

local log = redis.call('HMGET', LOG, 'fence', 'retiring')
if log[1] ~= ARGV[2] or not log[2] or redis.call('GET', LEASE) ~= ARGV[1] then
  return 0
end
redis.call('DEL', LEASE) -- first, as it is allowed when Redis is full
local time = redis.call('TIME')
redis.call('HSET', LOG, 'retired', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
redis.call('HDEL', LOG, 'owner')
redis.call('PEXPIRE', LOG, ARGV[3])
redis.call('PEXPIRE', EVIDENCE, ARGV[3])
return 1
