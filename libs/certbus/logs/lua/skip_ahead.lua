-- Purpose: skip entries under the lease of their log, because the log is further behind than permitted.
-- The lease and its fence stay. The position, the counter, the record, the tree head and the frontier of
-- the new position change together.
-- KEYS: log:<id>, stream:rejected, head.
-- ARGV: log id, fence, index of the first entry to skip, index of the entry to continue at, reason, event
-- (random; a repeated call changes nothing), then names and values of more fields of the log. Without
-- `frontier` among them, the stored one is deleted.
-- Returns: {'skipped'}, {'fenced'}, {'missing'}: the log does not exist, or {'stale', next}: the log's
-- `next` is not the first entry to skip.

local LOG, REJECTED, HEAD = KEYS[1], KEYS[2], KEYS[3]
local log_id, fence, first, to, reason, event = unpack(ARGV, 1, 6)
first, to = tonumber(first), tonumber(to)

local log = redis.call('HMGET', LOG, 'next', 'fence', 'skipped', 'skip_event', 'renamed')
if not log[1] then
  return { log[5] and 'fenced' or 'missing' }
end
if log[2] ~= fence then
  return { 'fenced' }
end
if log[4] == event then
  return { 'skipped' }
end
if tonumber(log[1]) ~= first then
  return { 'stale', log[1] }
end
record_skip({ log = LOG, rejected = REJECTED, head = HEAD }, log_id, first, to, reason, event,
  tonumber(log[3] or 0), { unpack(ARGV, 7) })
local kept = false
for i = 7, #ARGV, 2 do
  kept = kept or ARGV[i] == 'frontier'
end
if not kept then
  redis.call('HDEL', LOG, 'frontier')
end
return { 'skipped' }
