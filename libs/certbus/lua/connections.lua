-- Functions over the connection counts. `limit:connections` is always the sum of what all gateways
-- in `limit:gateways` hold in `limit:connections:<gateway>`; the field '*' of each is its total.

local TOTAL = '*'
local AHEAD = 60000 -- ms that a score can be ahead of TIME at least, whatever the TTL

local function add(key, field, count)
  if count ~= 0 and redis.call('HINCRBY', key, field, count) <= 0 then
    redis.call('HDEL', key, field)
  end
end

-- Takes what one gateway holds out of the sum.
local function forget(gateways, sum, gateway)
  local held = sum .. ':' .. gateway
  local counts = redis.call('HGETALL', held)
  redis.call('ZREM', gateways, gateway)
  for i = 1, #counts, 2 do
    add(sum, counts[i], -counts[i + 1])
  end
  redis.call('DEL', held)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A gateway that stops renewing has gone, and all its connections with it: 3 ms for a thousand
-- addresses, so one gateway a call.
-- So has one whose score is further ahead than any renewal makes it: it was written before the clock
-- of Redis was set back. (A gateway that is forgotten while it lives counts anew.)
local function forget_a_dead_one(gateways, sum, now, ttl)
  local furthest = string.format('(%.0f', now + math.max(4 * ttl, AHEAD))
  for _, range in ipairs({ { '-inf', now }, { furthest, '+inf' } }) do
    local dead = redis.call('ZRANGEBYSCORE', gateways, range[1], range[2], 'LIMIT', 0, 1)
    for _, gateway in ipairs(dead) do
      forget(gateways, sum, gateway)
    end
  end
end

-- Says that a gateway lives. If all of them die, everything expires.
local function renew(gateways, sum, gateway, now, ttl)
  redis.call('ZADD', gateways, now + ttl, gateway)
  for _, key in ipairs({ gateways, sum, sum .. ':' .. gateway }) do
    redis.call('PEXPIRE', key, 4 * ttl)
  end
end
