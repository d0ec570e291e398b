-- Purpose: remove the oldest entries of one stream, a bounded number of bytes per call.
-- KEYS: head, the stream.
-- ARGV: name of the stream, maximum age in ms (0: no limit), maximum bytes, bytes to remove at least,
-- bytes to inspect at most in this call.
-- Returns: {entries removed, bytes removed, 1 if more is to be removed}.
--
-- The age of an entry counts from its field `at`, if it has one, else from its id. If that is ahead of
-- TIME, the entry was made while the clock of Redis was ahead, and its age counts from when the trimmer
-- first saw it (`<stream>.ahead`: the newest id then, and TIME). While ages cannot be trusted
-- (lua/ages.lua), no entry is removed by age.

local ENTRY_OVERHEAD_BYTES = 128 -- as in publish.lua

local HEAD, STREAM = KEYS[1], KEYS[2]
local name, max_age = ARGV[1], tonumber(ARGV[2])
local max_bytes, free, work = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local bytes_field, entries_field, messages_field = name .. '.bytes', name .. '.entries', name .. '.messages'
local held = redis.call('HMGET', HEAD, bytes_field, entries_field, messages_field)
local bytes, entries = tonumber(held[1] or 0), tonumber(held[2] or 0)
local messages = tonumber(held[3] or 0)

local now = now_ms()
local oldest = is_settled(HEAD, now) and max_age > 0 and now - max_age or 0

local ahead_field = name .. '.ahead'
local ahead_id, ahead_at = string.match(redis.call('HGET', HEAD, ahead_field) or '', '^(%S+) (%d+)$')
ahead_at = tonumber(ahead_at or '')

local function numbers_of(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

-- Returns whether the first id is at most the second.
local function is_covered(id, last)
  local ms, seq = numbers_of(id)
  local last_ms, last_seq = numbers_of(last)
  return ms < last_ms or (ms == last_ms and seq <= last_seq)
end

-- Returns when an entry was made, in ms of TIME and never ahead of it.
local function made_at(id, fields)
  local made = numbers_of(id)
  for i = 1, #fields, 2 do
    if fields[i] == 'at' then
      made = tonumber(fields[i + 1]) or made
    end
  end
  if made <= now then
    return made
  end
  if not ahead_id or not is_covered(id, ahead_id) or ahead_at > now then
    ahead_id = redis.call('XREVRANGE', STREAM, '+', '-', 'COUNT', 1)[1][1]
    ahead_at = now
    redis.call('HSET', HEAD, ahead_field, ahead_id .. ' ' .. text(ahead_at))
  end
  return ahead_at
end

local function measure(fields)
  local size, n = ENTRY_OVERHEAD_BYTES, 1
  for i = 1, #fields, 2 do
    if fields[i] == 'm' or fields[i] == 'reason' or fields[i] == 'raw' then
      size = size + #fields[i + 1]
    elseif fields[i] == 'n' then
      n = tonumber(fields[i + 1])
    end
  end
  return size, n
end

local removed, removed_bytes, more = 0, 0, 0
local ms, seq
local from = '-'
while true do
  local entry = redis.call('XRANGE', STREAM, from, '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  local id_ms, id_seq = string.match(entry[1], '^(%d+)-(%d+)$')
  if made_at(entry[1], entry[2]) >= oldest and bytes <= max_bytes and removed_bytes >= free then
    break
  end
  if removed_bytes >= work then
    more = 1
    break
  end
  local size, n = measure(entry[2])
  bytes, entries, messages = bytes - size, entries - 1, messages - n
  removed, removed_bytes = removed + 1, removed_bytes + size
  ms, seq = id_ms, id_seq
  from = '(' .. entry[1]
end

if removed > 0 then
  redis.call('XTRIM', STREAM, 'MINID', ms .. '-' .. string.format('%.0f', tonumber(seq) + 1))
end
if redis.call('XLEN', STREAM) == 0 then
  -- The counts are wrong if the stream was trimmed or deleted by hand.
  redis.call('HDEL', HEAD, bytes_field, entries_field, messages_field, ahead_field)
elseif removed > 0 then
  redis.call('HSET', HEAD, bytes_field, text(math.max(bytes, 0)),
    entries_field, text(math.max(entries, 0)), messages_field, text(math.max(messages, 0)))
end
return { removed, removed_bytes, more }
