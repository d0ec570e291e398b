-- Purpose: reserve the next free request slot of one operator. Slots are an interval apart, which
-- follows the operator's answers (operator_slots.lua).
-- KEYS: limit:operator:<name>.
-- ARGV: shortest and longest interval in ms, longest pause of an operator in ms, answers other than 429
-- since the caller's last reservation.
-- Returns: microseconds until the slot, present interval in microseconds, microseconds for which the
-- operator is taken to count requests.

local now = now_us()
local shortest, slowest, pause = ARGV[1] * 1000, ARGV[2] * 1000, ARGV[3] * 1000

local next_slot, _, refused_until, counts_until = read_operator(KEYS[1], now)
local interval, paced = pace(KEYS[1], now, shortest, slowest, tonumber(ARGV[4]), 0)
local slot = math.max(now, next_slot)
if slot > now + pause + 1000 * slowest then
  slot = now -- no queue is that long: a release without `at` wrote it before the clock was set back
end
write_operator(KEYS[1], now, math.max(slot + interval, refused_until, counts_until), paced,
  'next', text(slot + interval), 'refused_until', text(refused_until), 'counts_until', text(counts_until))
return {slot - now, interval, math.max(counts_until - now, 0)}
