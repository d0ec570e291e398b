-- Renews leases, also those that expired while nobody took the log.
--
-- A lease that expired is taken again if the newest fence of the log is still this lease's and the
-- log was not released, retired or renamed since: each of these removes `owner`. The fence stays, so
-- what was prepared under the lease can be published.
--
-- KEYS: lease:<id> and log:<id> of each lease. ARGV: worker, TTL in ms, then the fence of each.
-- Returns 1 for each lease that is held, 0 for each that is lost.

local worker, ttl = ARGV[1], ARGV[2]

local held = {}
for i = 1, #KEYS / 2 do
  local lease, log_key = KEYS[2 * i - 1], KEYS[2 * i]
  local holder = redis.call('GET', lease)
  local log = redis.call('HMGET', log_key, 'fence', 'owner', 'retired', 'renamed')
  local fence, owner, retired, renamed = log[1], log[2], log[3], log[4]
  held[i] = 0
  if fence == ARGV[2 + i] and (holder == worker or
      not holder and owner == worker and not retired and not renamed) then
    -- PEXPIRE first, also of a lease that is not there: unlike SET, it is allowed when Redis is full.
    if redis.call('PEXPIRE', lease, ttl) == 0 then
      redis.call('SET', lease, worker, 'PX', ttl)
    end
    held[i] = 1
  end
end
return held
