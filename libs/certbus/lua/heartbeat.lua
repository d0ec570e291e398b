-- Records that a worker or gateway is alive, and what it reports.
--
-- KEYS: the index (`workers` or `gateways`), the member's hash. ARGV: member id, TTL in ms, the most
-- ms that a score can be ahead of TIME, then names and values of its fields.
-- Returns TIME in ms, as text.
--
-- A score is the time at which a heartbeat expires. One that is too far ahead was written before the
-- clock of Redis was set back: its member is removed, and is back with its next heartbeat if it is
-- alive.

local INDEX, MEMBER = KEYS[1], KEYS[2]
local member, ttl, ahead = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number)
  return string.format('%.0f', number)
end

-- First what a full Redis accepts: then it accepts the rest, too, which is little.
redis.call('ZREMRANGEBYSCORE', INDEX, '-inf', text(now))
redis.call('ZREMRANGEBYSCORE', INDEX, '(' .. text(now + ahead), '+inf')
redis.call('HSET', MEMBER, 'id', member, unpack(ARGV, 4))
redis.call('PEXPIRE', MEMBER, ttl)
redis.call('ZADD', INDEX, text(now + ttl), member)
return text(now)
