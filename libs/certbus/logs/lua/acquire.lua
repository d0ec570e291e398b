-- Purpose: take the lease of a log that no worker holds; create the log if it is new and `start` is set.
-- KEYS: lease:<id>, log:<id>, logs, head.
-- ARGV: worker, TTL in ms, random part of the fence, log id, start ('' if not known).
-- Returns: {fence, next, start, epoch or '', entry_timestamp or ''}; nil if the lease is held, the start is
-- not known, or the log has a better id or is retired.

local LEASE, LOG, LOGS, HEAD = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local worker, ttl, random, log_id, start = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local left = redis.call('PTTL', LEASE)
if left ~= -2 then
  if left > tonumber(ttl) then
    -- It was set before the clock of Redis was set back. Its holder renews it within this TTL.
    redis.call('PEXPIRE', LEASE, ttl)
  end
  return false
end
local log = redis.call('HMGET', LOG, 'next', 'fence', 'renamed', 'retired', 'entry_timestamp', 'start')
local next_index, first = log[1], tonumber(log[6] or '') and log[6] or log[1]
if log[3] or log[4] or (not next_index and start == '') then
  return false
end
local fence = string.format('%d:%s', tonumber(string.match(log[2] or '0:', '^(%d+):')) + 1, random)

redis.call('SET', LEASE, worker, 'PX', ttl)
if not next_index then
  next_index, first = start, start
  redis.call('SADD', LOGS, log_id)
  redis.call('HSET', LOG, 'start', start, 'next', start, 'created', text(now_ms()))
end
redis.call('HSET', LOG, 'fence', fence, 'owner', worker)
return { fence, next_index, first, redis.call('HGET', HEAD, 'epoch') or '', log[5] or '' }
