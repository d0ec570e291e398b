-- Takes logs off the roll of which nothing is kept any more.
--
-- KEYS: logs, then log:<id> of each. ARGV: their ids.
-- Returns how many were taken off.

local gone = 0
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    gone = gone + redis.call('SREM', KEYS[1], ARGV[i - 1])
  end
end
return gone
