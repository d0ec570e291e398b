-- Purpose: read and write the request slots of one operator, in microseconds of TIME. A prelude of
-- limits/lua/reserve_request_slot.lua and record_rate_limited.lua.
-- KEYS: none.
-- ARGV: none.
-- Returns: nothing; it defines functions.
--
-- `next` is the next free slot, `refused_until` the end of the pause that the log `refused_by`
-- requested, `at` the time of writing. A stored time counts as no further ahead of TIME than it was
-- ahead of `at`: after the clock of Redis is set back, no worker waits until it catches up.

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Returns the next free slot, the log that answered 429 last, and the end of its pause.
local function read_operator(key, now)
  local state = redis.call('HMGET', key, 'next', 'refused_by', 'refused_until', 'at')
  local slot, refused_until = tonumber(state[1] or 0), tonumber(state[3] or 0)
  local ahead = math.max(tonumber(state[4] or 0) - now, 0)
  return slot - ahead, state[2], refused_until - ahead
end

-- Writes fields and sets the expiry of the hash. A full Redis accepts the first write, and then the few
-- bytes of the others.
local function write_operator(key, now, expire, ...)
  redis.call('PEXPIRE', key, 1)
  redis.call('HSET', key, 'at', text(now), ...)
  redis.call('PEXPIREAT', key, text(math.ceil(expire / 1000)))
end
