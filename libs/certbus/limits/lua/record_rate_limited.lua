-- Purpose: record that a log answered 429. If a second log of the operator does so during the pause of
-- the first, the operator limits this client as a whole: no slot before the end of both pauses.
-- KEYS: limit:operator:<name>.
-- ARGV: log id, pause in ms, longest pause of an operator in ms.
-- Returns: 1 if the whole operator is paused, else 0.

local now = now_us()
local log, pause_end = ARGV[1], now + ARGV[2] * 1000

local slot, limited_log, limited_until = read_operator(KEYS[1], now)
local pause_all = limited_log and limited_log ~= log and limited_until > now
if pause_all then
  slot = math.max(slot, math.min(math.max(limited_until, pause_end), now + ARGV[3] * 1000))
end
write_operator(KEYS[1], now, math.max(slot, pause_end, limited_until),
  'next', text(slot), 'refused_by', log, 'refused_until', text(pause_end))
return pause_all and 1 or 0
