-- Purpose: create a log again after Redis was emptied, at the position of its owner.
-- KEYS: lease:<id>, log:<id>, logs.
-- ARGV: worker, TTL in ms, random part of the fence, log id, next.
-- Returns: {fence, next}; nil if the log exists and starts early enough, or has a better id.
--
-- If another worker, which did not know the log, has created it with a later start, the owner's position
-- replaces that. Entries published twice then are found as duplicates; entries between would be lost.

local LEASE, LOG, LOGS = KEYS[1], KEYS[2], KEYS[3]
local worker, ttl, random, log_id, position = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local log = redis.call('HMGET', LOG, 'start', 'fence', 'renamed')
if log[3] or (log[1] and tonumber(log[1]) <= tonumber(position)) then
  return false
end
local fence = string.format('%d:%s', tonumber(string.match(log[2] or '0:', '^(%d+):')) + 1, random)

redis.call('SET', LEASE, worker, 'PX', ttl)
redis.call('SADD', LOGS, log_id)
redis.call('HDEL', LOG, 'published', 'duplicates', 'rejected', 'skipped')
redis.call('HSET', LOG, 'start', position, 'next', position, 'fence', fence, 'owner', worker)
return { fence, position }
