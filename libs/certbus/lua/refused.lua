-- Notes that a log has answered 429. When a second log of its operator does, while the first is to
-- be left alone, it is the operator who has had enough: no turn before that time is handed out.
--
-- KEYS: limit:operator:<name>. ARGV: log id, ms to be left alone, the most ms that all logs of the
-- operator are left alone for it.
-- Returns 1 if the operator is left alone, else 0.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local log, until_ = ARGV[1], now + ARGV[2] * 1000

local state = redis.call('HMGET', KEYS[1], 'next', 'refused_by', 'refused_until')
local turn = tonumber(state[1] or 0)
local by, before = state[2], tonumber(state[3] or 0)
local all = by and by ~= log and before > now
if all then
  turn = math.max(turn, math.min(math.max(before, until_), now + ARGV[3] * 1000))
end
local expire = math.max(turn, until_, before)

redis.call('PEXPIRE', KEYS[1], 1)
redis.call('HSET', KEYS[1], 'next', string.format('%.0f', turn),
  'refused_by', log, 'refused_until', string.format('%.0f', until_))
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil(expire / 1000)))
return all and 1 or 0
