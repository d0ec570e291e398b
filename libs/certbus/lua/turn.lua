-- Hands out the next turn to ask one operator: moments `interval` apart, first come, first served.
--
-- KEYS: limit:operator:<name>. ARGV: ms between two turns, ms that an operator may be left alone.
-- Returns microseconds until the turn.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, pause = ARGV[1] * 1000, ARGV[2] * 1000

local state = redis.call('HMGET', KEYS[1], 'next', 'refused_until')
local turn = math.max(now, tonumber(state[1] or 0))
if turn > now + pause + 1000 * interval then
  turn = now -- no queue is that long: the clock was set back
end
local expire = math.max(turn + interval, tonumber(state[2] or 0))

-- First what a full Redis accepts: then it accepts the rest, too, which is little.
redis.call('PEXPIRE', KEYS[1], 1)
redis.call('HSET', KEYS[1], 'next', string.format('%.0f', turn + interval))
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil(expire / 1000)))
return turn - now
