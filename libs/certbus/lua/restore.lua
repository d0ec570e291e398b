-- Makes a log again after Redis was emptied, from where its owner was: not from the log's head.
--
-- If a worker that did not know the log was faster and has started it further on, it is taken
-- back to the owner's position: what is published twice then is known as a duplicate, while what
-- lies between would be lost.
--
-- KEYS: lease:<id>, log:<id>, logs. ARGV: worker, TTL in ms, random part of the fence, log id, next.
-- Returns {fence, next}, or nil if the log is there and reaches back far enough, or has a better id.

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
