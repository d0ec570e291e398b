-- Purpose: count the connections of one gateway, and admit waiting ones within the limits.
-- KEYS: limit:gateways, limit:connections.
-- ARGV: gateway, TTL in ms, connections that the gateway has reported in total, limit in total, limit per
-- address ('' for no limit), then for each address: the address, open connections, waiting connections.
-- Returns: nil if the counts of this gateway are not what it reported last: it must reset them
-- (reset_gateway_connections.lua). Otherwise its new total, then for each address {admitted, 1 if the
-- limit in total rejected some}.
--
-- The gateway reports the number of open connections, not its change: a repeated call counts nothing
-- twice.

local GATEWAYS, SUM = KEYS[1], KEYS[2]
local gateway, ttl = ARGV[1], tonumber(ARGV[2])
local limit, address_limit = tonumber(ARGV[4]) or math.huge, tonumber(ARGV[5]) or math.huge
local held = SUM .. ':' .. gateway

local now = now_ms()
remove_expired_gateway(GATEWAYS, SUM, now, ttl)
local reported_total = tonumber(redis.call('HGET', held, TOTAL) or 0)
if not redis.call('ZSCORE', GATEWAYS, gateway) or reported_total ~= tonumber(ARGV[3]) then
  return false
end

-- A full Redis accepts this first write, and then the few bytes of the others.
redis.call('PEXPIRE', GATEWAYS, 4 * ttl)
local total = tonumber(redis.call('HGET', SUM, TOTAL) or 0)
local replies = { reported_total }
for i = 6, #ARGV, 3 do
  local address, open, waiting = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local reported = tonumber(redis.call('HGET', held, address) or 0)
  local elsewhere = tonumber(redis.call('HGET', SUM, address) or 0) - reported
  local room = limit - (total - reported + open)
  local address_room = address_limit - elsewhere - open
  local admitted = math.max(0, math.min(waiting, room, address_room))
  local change = open + admitted - reported
  for _, key in ipairs({ held, SUM }) do
    add(key, address, change)
    add(key, TOTAL, change)
  end
  total, replies[1] = total + change, replies[1] + change
  replies[#replies + 1] = { admitted, room < math.min(waiting, address_room) and 1 or 0 }
end
renew(GATEWAYS, SUM, gateway, now, ttl)
return replies
