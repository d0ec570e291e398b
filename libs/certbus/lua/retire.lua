-- Says that a log is over: it is drained, then dropped. One that an operator retires before anything
-- was read of it is dropped at once.
--
-- KEYS: log:<id>, and listed:<list id> of the list that says so, if one does. ARGV: log id,
-- retirement (JSON), why (one line), how long a dropped log is still shown (ms).
-- Returns 1, or 0 if the log is not known (to a list: has no position), or is retired already.

local LOG, LISTED = KEYS[1], KEYS[2]
local log_id, retirement, why, shown = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local log = redis.call('HMGET', LOG, 'next', 'retiring', 'name', 'renamed')
if LISTED then
  redis.call('HDEL', LISTED, log_id) -- said once: who follows the log all the same is not told again
end
local begun = log[1]
if log[2] or log[4] or not (begun or (log[3] and not LISTED)) then
  return 0
end
redis.call('HSET', LOG, 'retiring', retirement, 'retired_why', why)
if not begun then
  local time = redis.call('TIME')
  redis.call('HSET', LOG, 'retired', string.format('%.0f', time[1] * 1000))
  redis.call('PEXPIRE', LOG, shown)
end
return 1
