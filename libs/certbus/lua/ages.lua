-- Purpose: decide whether ages can be trusted, since the clock of Redis may be wrong. A prelude of the
-- scripts that remove by age.
-- KEYS: none.
-- ARGV: none.
-- Returns: nothing; it defines functions.

local MAX_STEP = 60000 -- ms: how far TIME may move between two calls, and how long a jump must hold

-- Returns whether ages can be trusted. They cannot for MAX_STEP after TIME moved by more than MAX_STEP
-- between two calls. `head` stores `clock`, a recent TIME, and `jumped`, when a jump was seen.
local function is_settled(head, now)
  local seen = redis.call('HMGET', head, 'clock', 'jumped')
  local clock, jumped = tonumber(seen[1] or now), tonumber(seen[2] or '')
  redis.call('HDEL', head, '') -- a full Redis accepts this first write, and then the others
  if math.abs(now - clock) > MAX_STEP then
    redis.call('HSET', head, 'clock', text(now), 'jumped', text(now))
    return false
  end
  if not seen[1] or now - clock > MAX_STEP / 12 or now < clock then
    redis.call('HSET', head, 'clock', text(now)) -- not at each call
  end
  if jumped and now - jumped < MAX_STEP then
    return false
  end
  if jumped then
    redis.call('HDEL', head, 'jumped')
  end
  return true
end
