-- Purpose: record that a log answered 429. If a second log of the operator does so with a Retry-After
-- during the pause of the first, the operator limits this client as a whole: no slot before the end of
-- both pauses.
-- KEYS: limit:operator:<name>.
-- ARGV: log id, pause in ms, 1 if a Retry-After stated the pause, longest pause of an operator in ms,
-- shortest and longest interval in ms, answers other than 429 since the caller's last reservation.
-- Returns: 1 if the whole operator is paused, else 0.

local LONG_PAUSE_MS, COUNTS_SECS = 10000, 1800 -- a long pause, and for how many seconds it counts

local now = now_us()
local log, pause_end = ARGV[1], now + ARGV[2] * 1000

local slot, limited_log, limited_until, counts_until = read_operator(KEYS[1], now)
local _, paced = pace(KEYS[1], now, ARGV[5] * 1000, ARGV[6] * 1000, tonumber(ARGV[7]), 1)
if ARGV[3] ~= '1' then
  write_operator(KEYS[1], now, math.max(slot, limited_until, counts_until), paced,
    'counts_until', text(counts_until))
  return 0
end
if tonumber(ARGV[2]) >= LONG_PAUSE_MS then
  counts_until = now + COUNTS_SECS * 1000000
end
local pause_all = limited_log and limited_log ~= log and limited_until > now
if pause_all then
  slot = math.max(slot, math.min(math.max(limited_until, pause_end), now + ARGV[4] * 1000))
end
write_operator(KEYS[1], now, math.max(slot, pause_end, limited_until, counts_until), paced,
  'next', text(slot), 'refused_by', log, 'refused_until', text(pause_end),
  'counts_until', text(counts_until))
return pause_all and 1 or 0
