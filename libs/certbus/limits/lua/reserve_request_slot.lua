-- Purpose: reserve the next free request slot of one operator. Slots are an interval apart, which
-- follows the operator's answers (operator_slots.lua).
-- KEYS: limit:operator:<name>.
-- ARGV: shortest and longest interval in ms, longest pause of an operator in ms, answers other than 429
-- since the caller's last reservation, API of the log, microseconds that the slot is ahead at least.
-- Returns: microseconds until the slot, present interval in microseconds, microseconds for which the
-- operator is taken to count requests, microseconds for which all its logs of this API pause, and for which
-- those of the other API do. While those of this API pause, no slot is reserved.

local now = now_us()
local shortest, slowest, pause = ARGV[1] * 1000, ARGV[2] * 1000, ARGV[3] * 1000

local state = read_operator(KEYS[1], now)
local interval, paced = pace(KEYS[1], now, shortest, slowest, tonumber(ARGV[4]), 0)
local paused, other_paused = 0, 0
for _, api in ipairs(APIS) do
  local field = 'paused_until:' .. api
  if state[field] > now + pause then
    state[field] = 0 -- no pause is that long: see MAX_AHEAD_SECS
  end
  local rest = math.max(state[field] - now, 0)
  if api == ARGV[5] then paused = rest else other_paused = rest end
end
local slot = math.max(now + ARGV[6], state.next)
if slot > now + pause + 1000 * slowest then
  slot = now -- no queue is that long: a release without `at` wrote it before the clock was set back
end
if paused == 0 then
  state.next = slot + interval
end
write_operator(KEYS[1], now, state, paced)
return {slot - now, interval, math.max(state.counts_until - now, 0), paused, other_paused}
