-- Purpose: record that a log answered 429. If a second log of the operator does so with a Retry-After
-- during the pause of the first, the operator limits this client as a whole: its logs of this API get no
-- slot before the end of both pauses.
-- KEYS: limit:operator:<name>.
-- ARGV: log id, pause in ms, 1 if a Retry-After stated the pause, longest pause of an operator in ms,
-- shortest and longest interval in ms, answers other than 429 since the caller's last reservation, API of
-- the log.
-- Returns: microseconds for which all logs of the API pause because of this; 0 if they do not.

local LONG_PAUSE_MS, COUNTS_SECS = 10000, 1800 -- a long pause, and for how many seconds it counts

local now = now_us()
local log, pause_end, api = ARGV[1], now + ARGV[2] * 1000, 'paused_until:' .. ARGV[8]

local state = read_operator(KEYS[1], now)
local _, paced = pace(KEYS[1], now, ARGV[5] * 1000, ARGV[6] * 1000, tonumber(ARGV[7]), 1)
local pause_all = false
if ARGV[3] == '1' then
  if tonumber(ARGV[2]) >= LONG_PAUSE_MS then
    state.counts_until = now + COUNTS_SECS * 1000000
  end
  pause_all = state.refused_by ~= log and state.refused_until > now
  if pause_end >= state.refused_until then
    state.refused_by, state.refused_until = log, pause_end
  end
  if pause_all then
    local longest = now + ARGV[4] * 1000
    state[api] = math.min(math.max(state[api], state.refused_until), longest)
  end
end
write_operator(KEYS[1], now, state, paced)
return pause_all and state[api] - now or 0
