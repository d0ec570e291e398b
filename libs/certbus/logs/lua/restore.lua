-- Purpose: create a log again after Redis was emptied, at the position of its owner, or after Redis was
-- replaced by a copy that is older than the log, at the log's start.
-- KEYS: lease:<id>, log:<id>, logs, head.
-- ARGV: worker, TTL in ms, random part of the fence, log id, next, start, epoch of Redis when the owner got
-- its lease ('' if not known).
-- Returns: {fence, next, start, epoch or ''}; nil if the log exists and starts early enough or was created
-- too long ago, was merged of two, or has a better id. A repeated call, whose reply was lost, changes
-- nothing and returns the same.
--
-- If another worker, which did not know the log, has created it with a later start, the owner's position
-- replaces that. Entries published twice then are found as duplicates; entries between would be lost. An
-- owner that was stopped until the marks of the other worker expired does not replace anything: clients
-- would receive certificates again without a gap.
--
-- A Redis of the same epoch without the log is an older copy: it has nothing that the owner published, but
-- clients follow it. A Redis that was emptied has another epoch, or none yet. A merged log of the same
-- epoch is no older copy: another worker owned the record that was kept.

local LEASE, LOG, LOGS, HEAD = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local worker, ttl, random, log_id, position = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local first, epoch = ARGV[6], ARGV[7]

local log = redis.call('HMGET', LOG, 'start', 'fence', 'renamed', 'created', 'merged')
local start, created = tonumber(log[1] or ''), tonumber(log[4] or '')
local number, own = string.match(log[2] or '0:', '^(%d+):(.*)$')
local head = redis.call('HMGET', HEAD, 'epoch', 'remember')
if own == random then
  return { log[2], log[1], log[1], head[1] or '' }
end
if head[1] == epoch then
  if log[5] then
    return false
  end
  position = first
end
if log[3] or (start and start <= tonumber(position)) then
  return false
end
local now = now_ms()
local remember = tonumber(head[2] or '')
if start and created and remember and now - created > remember then
  return false
end
local fence = string.format('%d:%s', number + 1, random)

redis.call('SET', LEASE, worker, 'PX', ttl)
redis.call('SADD', LOGS, log_id)
redis.call('HDEL', LOG, 'published', 'duplicates', 'rejected', 'skipped')
redis.call('HSET', LOG, 'start', position, 'next', position, 'fence', fence, 'owner', worker,
  'created', text(now))
return { fence, position, position, head[1] or '' }
