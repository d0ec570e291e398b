-- Purpose: renew leases, including those that expired while no other worker took the log.
-- KEYS: lease:<id> and log:<id> of each lease.
-- ARGV: worker, TTL in ms, then the fence of each lease.
-- Returns: for each lease the log's `next` if it is held, nil if it is lost.
--
-- An expired lease is taken again if its fence is still the log's newest and the log was not released,
-- retired or renamed since: each of these removes `owner`. The fence stays, so a batch prepared under
-- the lease can be published.

local worker, ttl = ARGV[1], ARGV[2]

local held = {}
for i = 1, #KEYS / 2 do
  local lease, log_key = KEYS[2 * i - 1], KEYS[2 * i]
  local holder = redis.call('GET', lease)
  local log = redis.call('HMGET', log_key, 'fence', 'owner', 'retired', 'renamed', 'next')
  local fence, owner, retired, renamed = log[1], log[2], log[3], log[4]
  held[i] = false
  if fence == ARGV[2 + i] and (holder == worker or
      not holder and owner == worker and not retired and not renamed) then
    -- PEXPIRE first, even if there is no lease: unlike SET, a full Redis accepts it.
    if redis.call('PEXPIRE', lease, ttl) == 0 then
      redis.call('SET', lease, worker, 'PX', ttl)
    end
    held[i] = tonumber(log[5] or '') or 0
  end
end
return held
