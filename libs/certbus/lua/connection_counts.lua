-- Purpose: maintain connection counts. A prelude of limits/lua/admit_connections.lua and
-- reset_gateway_connections.lua.
-- KEYS: none.
-- ARGV: none.
-- Returns: nothing; it defines functions.
--
-- `limit:connections` is always the sum of `limit:connections:<gateway>` over all gateways in
-- `limit:gateways`. The field '*' of each hash is its total.

local TOTAL = '*'
local MIN_AHEAD_MS = 60000 -- a score up to this far ahead of TIME is valid with any TTL

local function add(key, field, count)
  if count ~= 0 and redis.call('HINCRBY', key, field, count) <= 0 then
    redis.call('HDEL', key, field)
  end
end

-- Removes one gateway and subtracts its counts from the sum.
local function remove_gateway(gateways, sum, gateway)
  local held = sum .. ':' .. gateway
  local counts = redis.call('HGETALL', held)
  redis.call('ZREM', gateways, gateway)
  for i = 1, #counts, 2 do
    add(sum, counts[i], -counts[i + 1])
  end
  redis.call('DEL', held)
end

-- Removes one gateway of each kind: one that has not renewed its score, and one whose score is further
-- ahead than a renewal sets it, because it was written before the clock of Redis was set back. A gateway
-- that is removed while it runs resets its counts. One gateway per call, because a thousand addresses
-- cost 3 ms.
local function remove_expired_gateway(gateways, sum, now, ttl)
  local furthest = string.format('(%.0f', now + math.max(4 * ttl, MIN_AHEAD_MS))
  for _, range in ipairs({ { '-inf', now }, { furthest, '+inf' } }) do
    local expired = redis.call('ZRANGEBYSCORE', gateways, range[1], range[2], 'LIMIT', 0, 1)
    for _, gateway in ipairs(expired) do
      remove_gateway(gateways, sum, gateway)
    end
  end
end

-- Renews a gateway. All counts expire once no gateway renews.
local function renew(gateways, sum, gateway, now, ttl)
  redis.call('ZADD', gateways, now + ttl, gateway)
  for _, key in ipairs({ gateways, sum, sum .. ':' .. gateway }) do
    redis.call('PEXPIRE', key, 4 * ttl)
  end
end
