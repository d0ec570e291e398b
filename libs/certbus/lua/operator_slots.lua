-- Purpose: read and write the request slots of one operator, in microseconds of TIME. A prelude of
-- limits/lua/reserve_request_slot.lua and record_rate_limited.lua.
-- KEYS: none.
-- ARGV: none.
-- Returns: nothing; it defines functions.
--
-- `next` is the next free slot, `refused_until` the end of the pause that the log `refused_by`
-- requested, `counts_until` the time until which the operator is taken to count requests, `at` the time
-- of writing. A stored time counts as no further ahead of TIME than it was
-- ahead of `at`: after the clock of Redis is set back, no worker waits until it catches up.

-- The pace: `interval` is the present one, absent while it is the configured one; `changed` is the
-- time of its last change, `refused` that of the last 429; `answers` holds the newest answers, oldest
-- first, each `<seconds of TIME>+` or, for a 429, `<seconds of TIME>-`. Without a 429 nothing is kept.

local MAX_ANSWERS, MIN_REFUSALS = 20, 5 -- answers that count, and 429 among them that slow down
local MEMORY_SECS, QUIET_SECS, STEP_US = 60, 5, 1000000
local KEPT_SECS = 5 -- after the last request, so that an operator of the server can read the slots
local SLOWER, FASTER = 1.25, 0.9

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Returns the next free slot, the log that answered 429 last, the end of its pause, and the time until
-- which the operator is taken to count requests.
local function read_operator(key, now)
  local state = redis.call('HMGET', key, 'next', 'refused_by', 'refused_until', 'at', 'counts_until')
  local slot, refused_until = tonumber(state[1] or 0), tonumber(state[3] or 0)
  local ahead = math.max(tonumber(state[4] or 0) - now, 0)
  return slot - ahead, state[2], refused_until - ahead, tonumber(state[5] or 0) - ahead
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

-- Writes fields and the pace, and sets the expiry of the hash. A full Redis accepts the first write, and
-- then the few bytes of the others.
local function write_operator(key, now, expire, paced, ...)
  redis.call('PEXPIRE', key, 1)
  redis.call('HSET', key, 'at', text(now), ...)
  if #paced > 0 then
    redis.call('HSET', key, unpack(paced))
    expire = math.max(expire, now + MEMORY_SECS * 1000000)
  else
    redis.call('HDEL', key, 'interval', 'changed', 'refused', 'answers')
  end
  expire = math.max(expire, now + KEPT_SECS * 1000000)
  redis.call('PEXPIREAT', key, text(math.ceil(expire / 1000)))
end
