-- Purpose: remove the ids of logs whose state has expired from `logs`.
-- KEYS: logs, then log:<id> of each log.
-- ARGV: the log ids.
-- Returns: number of ids removed.

local gone = 0
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    gone = gone + redis.call('SREM', KEYS[1], ARGV[i - 1])
  end
end
return gone
