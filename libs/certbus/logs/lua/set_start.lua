-- Purpose: store where a log starts, if that is not known yet.
-- KEYS: log:<id>, logs.
-- ARGV: log id, index.
-- Returns: 1, or 0 if the log has a start or a better id, or is retired.

local LOG, LOGS = KEYS[1], KEYS[2]
local log = redis.call('HMGET', LOG, 'next', 'renamed', 'retired')
if log[1] or log[2] or log[3] then
  return 0
end
redis.call('SADD', LOGS, ARGV[1])
redis.call('HSET', LOG, 'start', ARGV[2], 'next', ARGV[2], 'created', text(now_ms()))
return 1
