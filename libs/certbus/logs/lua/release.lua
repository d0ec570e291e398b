-- Purpose: release a lease, so that another worker can take the log before the lease expires.
-- KEYS: lease:<id>, log:<id>.
-- ARGV: worker, fence.
-- Returns: 1, or 0 if the lease was lost before.

local LEASE, LOG = KEYS[1], KEYS[2]
if redis.call('HGET', LOG, 'fence') ~= ARGV[2] or redis.call('GET', LEASE) ~= ARGV[1] then
  return 0
end
redis.call('DEL', LEASE) -- first, because a full Redis accepts it
redis.call('HDEL', LOG, 'owner')
return 1
