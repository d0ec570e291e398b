-- Purpose: read and write the request slots of one operator, in microseconds of TIME. A prelude of
-- limits/lua/reserve_request_slot.lua and record_rate_limited.lua.
-- KEYS: none.
-- ARGV: none.
-- Returns: nothing; it defines functions.
--
-- `next` is the next free slot, `refused_by` the log whose pause ends last, `refused_until` its end,
-- `paused_until:<api>` the end of the pause of all logs of one API, `counts_until` the time until which the
-- operator is taken to count requests, `at` the time of writing. A stored time counts as no further ahead of
-- TIME than it was ahead of `at`: after the clock of Redis is set back, no worker waits until it catches up.
-- A time that has passed is removed, so that it does not return then. One further ahead than MAX_AHEAD_SECS
-- is dropped: a release that does not know the field has rewritten `at` after the clock was set back.

-- The pace: `interval` is the present one, absent while it is the configured one; `changed` is the
-- time of its last change, `refused` that of the last 429; `answers` holds the newest answers, oldest
-- first, each `<seconds of TIME>+` or, for a 429, `<seconds of TIME>-`. Without a 429 nothing is kept.

local MAX_ANSWERS, MIN_REFUSALS = 20, 5 -- answers that count, and 429 among them that slow down
local MEMORY_SECS, QUIET_SECS, STEP_US = 60, 5, 1000000
local MAX_AHEAD_SECS = 3600 -- of the longest pause of a log
local KEPT_SECS = 5 -- after the last request, so that an operator of the server can read the slots
local SLOWER, FASTER = 1.25, 0.9
local APIS = {'rfc6962', 'static-ct'}
local TIMES = {'next', 'refused_until', 'counts_until'}
for _, api in ipairs(APIS) do table.insert(TIMES, 'paused_until:' .. api) end

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Returns the fields TIMES and `refused_by` as a table; `stored` has the names of those in the hash.
local function read_operator(key, now)
  local values = redis.call('HMGET', key, 'at', 'refused_by', unpack(TIMES))
  local function number(value) return value and tonumber(value) or 0 end
  local ahead = math.max(number(values[1]) - now, 0)
  local state = {refused_by = values[2] or '', stored = {}}
  for n, field in ipairs(TIMES) do
    local value = math.max(number(values[n + 2]) - ahead, 0)
    state[field] = value > now + MAX_AHEAD_SECS * 1000000 and field ~= 'next' and 0 or value
    state.stored[field] = values[n + 2]
  end
  return state
end

-- Returns the interval after `good` answers and `bad` 429 since the last call, and the fields to
-- write. A quarter of 429 among the newest answers lengthens it by a quarter, once a second; after
-- QUIET_SECS without a 429 it shrinks by a tenth a second.
local function pace(key, now, shortest, slowest, good, bad)
  local state = redis.call('HMGET', key, 'interval', 'changed', 'refused', 'answers')
  local interval = math.max(math.min(tonumber(state[1]) or shortest, slowest), shortest)
  local changed = math.min(tonumber(state[2]) or 0, now)
  local refused = math.min(tonumber(state[3]) or 0, now)
  local second = math.floor(now / 1000000)
  local answers, refusals = {}, 0
  for moment, mark in string.gmatch(state[4] or '', '(%d+)([+-])') do
    if second - moment <= MEMORY_SECS and second >= tonumber(moment) then
      table.insert(answers, moment .. mark)
    end
  end
  for _ = 1, math.min(good, MAX_ANSWERS) do table.insert(answers, second .. '+') end
  for _ = 1, math.min(bad, MAX_ANSWERS) do table.insert(answers, second .. '-') end
  while #answers > MAX_ANSWERS do table.remove(answers, 1) end
  for _, answer in ipairs(answers) do
    if string.sub(answer, -1) == '-' then refusals = refusals + 1 end
  end
  if bad > 0 then refused = now end
  local steps = math.floor((now - changed) / STEP_US)
  if bad > 0 and refusals >= MIN_REFUSALS then
    if steps > 0 then
      interval, changed = math.min(interval * SLOWER, slowest), now
    end
  elseif interval > shortest and steps > 0 and now - refused >= QUIET_SECS * 1000000 then
    interval, changed = math.max(interval * FASTER ^ math.min(steps, 100), shortest), now
  end
  if refusals == 0 and interval <= shortest then
    return shortest, {}
  end
  return interval, {
    'interval', text(interval), 'changed', text(changed),
    'refused', text(refused), 'answers', table.concat(answers),
  }
end

-- Writes a table of `read_operator` and the pace, and sets the expiry of the hash. A full Redis accepts
-- the first write, and then the few bytes of the others.
local function write_operator(key, now, state, paced)
  local expire, fields = now + KEPT_SECS * 1000000, {'at', text(now), 'refused_by', state.refused_by}
  local passed = {}
  for _, field in ipairs(TIMES) do
    if state[field] > now then
      expire = math.max(expire, state[field])
      table.insert(fields, field)
      table.insert(fields, text(state[field]))
    elseif state.stored[field] then
      table.insert(passed, field)
    end
  end
  redis.call('PEXPIRE', key, 1)
  redis.call('HSET', key, unpack(fields))
  if #passed > 0 then redis.call('HDEL', key, unpack(passed)) end
  if #paced > 0 then
    redis.call('HSET', key, unpack(paced))
    expire = math.max(expire, now + MEMORY_SECS * 1000000)
  else
    redis.call('HDEL', key, 'interval', 'changed', 'refused', 'answers')
  end
  redis.call('PEXPIREAT', key, text(math.ceil(expire / 1000)))
end
