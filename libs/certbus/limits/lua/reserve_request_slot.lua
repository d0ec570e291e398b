-- Purpose: reserve the next free request slot of one operator. Slots are `interval` apart.
-- KEYS: limit:operator:<name>.
-- ARGV: interval in ms, longest pause of an operator in ms.
-- Returns: microseconds until the slot.

local now = now_us()
local interval, pause = ARGV[1] * 1000, ARGV[2] * 1000

local next_slot, _, refused_until = read_operator(KEYS[1], now)
local slot = math.max(now, next_slot)
if slot > now + pause + 1000 * interval then
  slot = now -- no queue is that long: a release without `at` wrote it before the clock was set back
end
write_operator(KEYS[1], now, math.max(slot + interval, refused_until),
  'next', text(slot + interval), 'refused_until', text(refused_until))
return slot - now
