-- Purpose: skip entries that a log cannot serve: advance `next` and record the range.
-- KEYS: log:<id>, lease:<id>, stream:rejected, head.
-- ARGV: log id, index of the entry to continue at, reason, random part of the fence.
-- Returns: {'skipped', first, end}, {'unknown'}, {'backwards', next}, or {'beyond', size of the tree}.
--
-- The owner loses the log: the fence is new and the lease is free, so no batch under way can be
-- published, and the next owner continues after the skipped range. The frontier is deleted, because the
-- leaves are not known: the next owner computes it from a proof. The failures of the log are reset. A
-- repeated call, whose reply was lost, changes nothing and returns the same.

local LOG, LEASE, REJECTED, HEAD = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local log_id, to, reason, random = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]

local log = redis.call('HMGET', LOG, 'next', 'tree_size', 'newest', 'fence', 'skipped', 'skip',
  'skip_event')
local next_index = tonumber(log[1] or '')
if not next_index then
  return { 'unknown' }
end
if log[7] == random then
  local first, last = string.match(log[6] or '', '^(%d+)-(%d+):')
  return { 'skipped', tonumber(first), last + 1 }
end
if to <= next_index then
  return { 'backwards', next_index }
end
local size = math.max(tonumber(log[2] or 0), tonumber(log[3] or 0))
if to > size then
  return { 'beyond', size }
end
local fence = string.format('%d:%s', tonumber(string.match(log[4] or '0:', '^(%d+):')) + 1, random)
record_skip({ log = LOG, rejected = REJECTED, head = HEAD }, log_id, next_index, to, reason, random,
  tonumber(log[5] or 0), { 'fence', fence })
redis.call('HDEL', LOG, 'frontier', 'circuit', 'failures', 'retry_at', 'retry_pause',
  'last_error', 'last_error_at')
redis.call('DEL', LEASE)
return { 'skipped', next_index, to }
