-- Passes over entries of a log that cannot be had: `next` moves, and it is recorded.
--
-- Whoever owns the log loses it: the fence is new, the lease free, so nothing that is under way can
-- be published, and the next owner goes on behind what was skipped. The frontier goes, as the leaves
-- are not known: that owner starts it from a proof. So does what was learned of the log's failures.
--
-- KEYS: log:<id>, lease:<id>, stream:rejected, head. ARGV: log id, index to go on at, reason, random
-- part of the fence.
-- A call that is repeated, as its reply was lost, changes nothing and returns the same.
-- Returns {'skipped', first, to}, {'unknown'}, {'backwards', next}, or {'beyond', size of the tree}.

local ENTRY_OVERHEAD = 128 -- as publish.lua counts

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
local skipped = tonumber(log[5] or 0) + to - next_index
local time = redis.call('TIME')
local at = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number)
  return string.format('%.0f', number)
end

redis.call('XADD', REJECTED, '*', 'log', log_id, 'index', text(next_index), 'last', text(to - 1),
  'reason', reason, 'raw', '', 'size', '0')
redis.call('HINCRBY', HEAD, 'rejected.bytes', #reason + ENTRY_OVERHEAD)
redis.call('HINCRBY', HEAD, 'rejected.entries', 1)
redis.call('HINCRBY', HEAD, 'rejected.messages', 1)
redis.call('HSET', LOG, 'next', text(to), 'skipped', text(skipped), 'fence', fence,
  'skip', text(next_index) .. '-' .. text(to - 1) .. ': ' .. reason, 'skip_at', text(at),
  'skip_event', random)
redis.call('HDEL', LOG, 'frontier', 'circuit', 'failures', 'retry_at', 'last_error', 'last_error_at')
redis.call('DEL', LEASE)
return { 'skipped', next_index, to }
