-- Drops a drained log: its lease ends, and nobody gets another one.
--
-- KEYS: log:<id>, lease:<id>, evidence:<id>. ARGV: worker, fence, now and how long the log is still
-- shown (both ms).
-- Returns 1, or 0 if the lease was lost before, or the log is no longer to be dropped.

local LOG, LEASE, EVIDENCE = KEYS[1], KEYS[2], KEYS[3]

local log = redis.call('HMGET', LOG, 'fence', 'retiring')
if log[1] ~= ARGV[2] or not log[2] or redis.call('GET', LEASE) ~= ARGV[1] then
  return 0
end
redis.call('DEL', LEASE) -- first, as it is allowed when Redis is full
redis.call('HSET', LOG, 'retired', ARGV[3])
redis.call('HDEL', LOG, 'owner')
redis.call('PEXPIRE', LOG, ARGV[4])
redis.call('PEXPIRE', EVIDENCE, ARGV[4])
return 1
