-- Renews leases; PEXPIRE, unlike SET, is allowed when Redis is full.
--
-- KEYS: lease:<id> and log:<id> of each lease. ARGV: worker, TTL in ms, then the fence of each.
-- Returns 1 for each lease that is still held, 0 for each that is lost.

local held = {}
for i = 1, #KEYS / 2 do
  local lease, log = KEYS[2 * i - 1], KEYS[2 * i]
  local ours = redis.call('GET', lease) == ARGV[1] and redis.call('HGET', log, 'fence') == ARGV[2 + i]
  held[i] = ours and redis.call('PEXPIRE', lease, ARGV[2]) or 0
end
return held
