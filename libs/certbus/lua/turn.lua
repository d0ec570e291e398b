-- Hands out the next turn to ask one operator: moments `interval` apart, first come, first served.
--
-- KEYS: limit:operator:<name>. ARGV: ms between two turns, ms that an operator may be left alone.
-- Returns microseconds until the turn.

local now = now_us()
local interval, pause = ARGV[1] * 1000, ARGV[2] * 1000

local next_turn, _, refused_until = read_operator(KEYS[1], now)
local turn = math.max(now, next_turn)
if turn > now + pause + 1000 * interval then
  turn = now -- no queue is that long: a release that stores no `at` wrote it before a step back
end
write_operator(KEYS[1], now, math.max(turn + interval, refused_until),
  'next', microseconds(turn + interval), 'refused_until', microseconds(refused_until))
return turn - now
