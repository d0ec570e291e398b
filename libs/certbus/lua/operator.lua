-- The state of one operator: moments in microseconds of TIME. Put before the scripts that need it.
--
-- `next` is the next free turn, `refused_until` the end of the pause that the log `refused_by` asked
-- for, `at` the moment at which these were written. What is stored is not further ahead of TIME than
-- it was ahead of `at`: after the clock of Redis was set back nobody waits for it to catch up.

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function read_operator(key, now)
  local state = redis.call('HMGET', key, 'next', 'refused_by', 'refused_until', 'at')
  local turn, refused_until = tonumber(state[1] or 0), tonumber(state[3] or 0)
  local ahead = math.max(tonumber(state[4] or 0) - now, 0)
  return turn - ahead, state[2], refused_until - ahead
end

local function microseconds(number)
  return string.format('%.0f', number)
end

-- Writes fields and lets the hash expire at `expire`. First what a full Redis accepts: then it accepts
-- the rest, too, which is little.
local function write_operator(key, now, expire, ...)
  redis.call('PEXPIRE', key, 1)
  redis.call('HSET', key, 'at', microseconds(now), ...)
  redis.call('PEXPIREAT', key, microseconds(math.ceil(expire / 1000)))
end
