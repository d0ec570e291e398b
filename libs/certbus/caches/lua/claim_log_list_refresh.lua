-- Purpose: assign the refresh of a log list to one worker, if it is due.
-- KEYS: list:<id>, lists.
-- ARGV: list id, ms after which another worker may claim it, the largest number of ms that a list can be
-- due ahead of TIME. A list that is due later was written before the clock of Redis was set back: it is
-- due now.
-- Returns: 1, or 0 if the list is not due.

local LIST, LISTS = KEYS[1], KEYS[2]

local now = now_ms()
local due = tonumber(redis.call('HGET', LIST, 'due') or 0)
if due > now and due <= now + tonumber(ARGV[3]) then
  return 0
end
redis.call('SADD', LISTS, ARGV[1])
redis.call('HSET', LIST, 'due', text(now + tonumber(ARGV[2])))
return 1
