-- Forgets everything one gateway holds: it begins to count anew, or it has gone.
--
-- KEYS: limit:gateways, limit:connections. ARGV: gateway, TTL in ms (0: it has gone).
--
-- Its first write is a deletion, so a full Redis lets it through.

local ttl = tonumber(ARGV[2])
local now = now_ms()
forget(KEYS[1], KEYS[2], ARGV[1])
if ttl > 0 then
  renew(KEYS[1], KEYS[2], ARGV[1], now, ttl)
end
