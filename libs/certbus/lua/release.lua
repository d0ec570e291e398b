-- Gives a lease back, so that another worker need not wait until it expires.
--
-- KEYS: lease:<id>, log:<id>. ARGV: worker, fence.
-- Returns 1, or 0 if the lease was lost before.

local LEASE, LOG = KEYS[1], KEYS[2]
if redis.call('HGET', LOG, 'fence') ~= ARGV[2] or redis.call('GET', LEASE) ~= ARGV[1] then
  return 0
end
redis.call('DEL', LEASE) -- first, as it is allowed when Redis is full
redis.call('HDEL', LOG, 'owner')
return 1
