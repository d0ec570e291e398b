-- Counts connections of one gateway, as far as the limits let them in.
--
-- KEYS: limit:gateways, limit:connections. ARGV: gateway, TTL in ms, connections in all it has
-- told so far, limit in all, limit for one address (either '' for none), then for each address:
-- address, connections held, connections that wait to be let in.
-- Returns nil if this gateway is not known as it believes to be: it has to count anew (recount.lua);
-- else what it has told now in all, and then for each address
-- {let in, 1 if it was the limit in all that kept others out}.
--
-- What is held is told as it is, not by how much it changed, so a repeated call does no harm.

local GATEWAYS, SUM = KEYS[1], KEYS[2]
local gateway, ttl = ARGV[1], tonumber(ARGV[2])
local most, most_of_one = tonumber(ARGV[4]) or math.huge, tonumber(ARGV[5]) or math.huge
local held = SUM .. ':' .. gateway

local now = now_ms()
forget_a_dead_one(GATEWAYS, SUM, now, ttl)
local total_told = tonumber(redis.call('HGET', held, TOTAL) or 0)
if not redis.call('ZSCORE', GATEWAYS, gateway) or total_told ~= tonumber(ARGV[3]) then
  return false
end

-- First what a full Redis accepts: then it accepts the rest, too, which is little.
redis.call('PEXPIRE', GATEWAYS, 4 * ttl)
local total = tonumber(redis.call('HGET', SUM, TOTAL) or 0)
local replies = { total_told }
for i = 6, #ARGV, 3 do
  local address, holds, waiting = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local told = tonumber(redis.call('HGET', held, address) or 0)
  local elsewhere = tonumber(redis.call('HGET', SUM, address) or 0) - told
  local room = most - (total - told + holds)
  local room_for_one = most_of_one - elsewhere - holds
  local let_in = math.max(0, math.min(waiting, room, room_for_one))
  local change = holds + let_in - told
  for _, key in ipairs({ held, SUM }) do
    add(key, address, change)
    add(key, TOTAL, change)
  end
  total, replies[1] = total + change, replies[1] + change
  replies[#replies + 1] = { let_in, room < math.min(waiting, room_for_one) and 1 or 0 }
end
renew(GATEWAYS, SUM, gateway, now, ttl)
return replies
