-- How old something is, by a clock that may be wrong. Put before the scripts that remove by age.

local HOLD = 60000 -- ms: how far TIME may move between two calls, and how long a jump has to hold

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- Whether ages are to be believed. After TIME jumped by more than HOLD since the last call, or since
-- nobody called for that long, they are not until it has held for HOLD. Kept in `head`: `clock`, the
-- newest TIME that was seen, and `jumped`, when a jump was seen. Its first write needs no memory.
local function is_settled(head, now)
  local seen = redis.call('HMGET', head, 'clock', 'jumped')
  local clock, jumped = tonumber(seen[1] or now), tonumber(seen[2] or '')
  redis.call('HDEL', head, '') -- first what a full Redis accepts: then it accepts the rest, too
  if math.abs(now - clock) > HOLD then
    redis.call('HSET', head, 'clock', text(now), 'jumped', text(now))
    return false
  end
  if not seen[1] or now - clock > HOLD / 12 or now < clock then
    redis.call('HSET', head, 'clock', text(now)) -- not at each call
  end
  if jumped and now - jumped < HOLD then
    return false
  end
  if jumped then
    redis.call('HDEL', head, 'jumped')
  end
  return true
end
