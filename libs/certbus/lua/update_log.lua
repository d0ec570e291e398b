-- Changes fields of a log in one step, with times from the clock of Redis.
--
-- KEYS: log:<id>. ARGV: for each change its operation, the field and a value:
--   set        the value
--   time       TIME plus the value, in ms
--   time_once  the same, unless the field has a value
--   add        the value added to the number that the field holds
--   delete     nothing; the value is ignored

local LOG = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('HDEL', LOG, '') -- first what a full Redis accepts: then it accepts the rest, too
for i = 1, #ARGV, 3 do
  local operation, field, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if operation == 'set' then
    redis.call('HSET', LOG, field, value)
  elseif operation == 'time' then
    redis.call('HSET', LOG, field, string.format('%.0f', now + value))
  elseif operation == 'time_once' then
    redis.call('HSETNX', LOG, field, string.format('%.0f', now + value))
  elseif operation == 'add' then
    redis.call('HINCRBY', LOG, field, value)
  else
    redis.call('HDEL', LOG, field)
  end
end
