-- Gives one worker the task of asking a log list's server, if that is due.
--
-- KEYS: list:<id>, lists. ARGV: list id, ms until somebody else may have the task, the most ms
-- that a list can be due ahead of TIME: one that is due later was put off before the clock of Redis
-- was set back, and is due now.
-- Returns 1, or 0 if it is not due.

local LIST, LISTS = KEYS[1], KEYS[2]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = tonumber(redis.call('HGET', LIST, 'due') or 0)
if due > now and due <= now + tonumber(ARGV[3]) then
  return 0
end
redis.call('SADD', LISTS, ARGV[1])
redis.call('HSET', LIST, 'due', string.format('%.0f', now + tonumber(ARGV[2])))
return 1
