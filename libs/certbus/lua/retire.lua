-- Says that a log is over: it is drained, then dropped.
--
-- KEYS: log:<id>, and listed:<list id> of the list that says so, if one does. ARGV: log id,
-- retirement (JSON), why (one line).
-- Returns 1, or 0 if nobody follows the log, or somebody has said so already.

local LOG, LISTED = KEYS[1], KEYS[2]
local log_id, retirement, why = ARGV[1], ARGV[2], ARGV[3]

local log = redis.call('HMGET', LOG, 'next', 'retiring')
if LISTED then
  redis.call('HDEL', LISTED, log_id) -- said once: who follows the log all the same is not told again
end
if not log[1] or log[2] then
  return 0
end
redis.call('HSET', LOG, 'retiring', retirement, 'retired_why', why)
return 1
