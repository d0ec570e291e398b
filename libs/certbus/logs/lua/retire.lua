-- Purpose: begin the retirement of a log: workers drain it, then retire it. A log of which nothing was
-- read and that an operator retires is retired at once.
-- KEYS: log:<id>, and listed:<list id> if a list retires the log.
-- ARGV: log id, retirement (JSON), reason (one line).
-- Returns: 1, or 0 if the log is not known (for a list: has no position) or is being retired already. A
-- repeated call, whose reply was lost, changes nothing and returns 1.

local LOG, LISTED = KEYS[1], KEYS[2]
local log_id, retirement, reason = ARGV[1], ARGV[2], ARGV[3]

local log = redis.call('HMGET', LOG, 'next', 'retiring', 'name', 'renamed')
if LISTED then
  redis.call('HDEL', LISTED, log_id) -- a list retires a log once, even if an operator takes it back
end
if log[2] == retirement then
  return 1
end
local has_position = log[1]
if log[2] or log[4] or not (has_position or (log[3] and not LISTED)) then
  return 0
end
redis.call('HSET', LOG, 'retiring', retirement, 'retired_why', reason)
if not has_position then
  redis.call('HSET', LOG, 'retired', text(now_ms()))
end
return 1
