-- Purpose: record that a worker or gateway is alive, and what it reports.
-- KEYS: the index (`workers` or `gateways`), the hash of the member.
-- ARGV: member id, TTL in ms, the largest number of ms that a score can be ahead of TIME, then names
-- and values of the member's fields.
-- Returns: TIME in ms, as text.
--
-- A score is the time at which a heartbeat expires. A score too far ahead was written before the clock
-- of Redis was set back: the member is removed, and its next heartbeat adds it again.

local INDEX, MEMBER = KEYS[1], KEYS[2]
local member, ttl, ahead = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local now = now_ms()

-- A full Redis accepts this first write, and then the few bytes of the others.
redis.call('ZREMRANGEBYSCORE', INDEX, '-inf', text(now))
redis.call('ZREMRANGEBYSCORE', INDEX, '(' .. text(now + ahead), '+inf')
redis.call('HSET', MEMBER, 'id', member, unpack(ARGV, 4))
redis.call('PEXPIRE', MEMBER, ttl)
redis.call('ZADD', INDEX, text(now + ttl), member)
return text(now)
