-- Notes that a log has answered 429. When a second log of its operator does, while the first is to
-- be left alone, it is the operator who has had enough: no turn before that time is handed out.
--
-- KEYS: limit:operator:<name>. ARGV: log id, ms to be left alone, the most ms that all logs of the
-- operator are left alone for it.
-- Returns 1 if the operator is left alone, else 0.

local now = now_us()
local log, until_ = ARGV[1], now + ARGV[2] * 1000

local turn, by, before = read_operator(KEYS[1], now)
local all = by and by ~= log and before > now
if all then
  turn = math.max(turn, math.min(math.max(before, until_), now + ARGV[3] * 1000))
end
write_operator(KEYS[1], now, math.max(turn, until_, before),
  'next', microseconds(turn), 'refused_by', log, 'refused_until', microseconds(until_))
return all and 1 or 0
