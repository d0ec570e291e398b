-- Purpose: delete the counts of one gateway, when it starts to count or stops.
-- KEYS: limit:gateways, limit:connections.
-- ARGV: gateway, TTL in ms (0: the gateway has stopped).
-- Returns: nothing.
--
-- The first write is a deletion, which a full Redis accepts.

local ttl = tonumber(ARGV[2])
local now = now_ms()
remove_gateway(KEYS[1], KEYS[2], ARGV[1])
if ttl > 0 then
  renew(KEYS[1], KEYS[2], ARGV[1], now, ttl)
end
