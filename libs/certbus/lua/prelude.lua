-- Purpose: what every script needs. `script_text` puts it before each script.
-- KEYS: none.
-- ARGV: none.
-- Returns: nothing; it defines functions.

-- Redis 6.2 would otherwise write the script itself to its AOF and to replicas, and run it again there
-- at another time. From Redis 7.0 on effects are always replicated.
redis.replicate_commands()

-- Returns TIME in ms since the epoch.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Returns an integer as text. Redis would write a large Lua number in exponential notation.
local function text(number)
  return string.format('%.0f', number)
end
