-- Removes the oldest entries of one stream, a bounded amount of them a call.
--
-- KEYS: head, the stream. ARGV: its name, ms after which an entry is too old (0: never), bytes it
-- may hold, bytes to remove at least whatever the other two say, bytes to look at in one call.
-- Returns {entries removed, bytes removed, 1 if there is more to do}.
--
-- XTRIM comes first: unlike HSET it is allowed when Redis is full, and lets HSET through after it.

local ENTRY_OVERHEAD = 128 -- as publish.lua counts

local HEAD, STREAM = KEYS[1], KEYS[2]
local name, max_age = ARGV[1], tonumber(ARGV[2])
local max_bytes, free, work = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local bytes_field, entries_field, messages_field = name .. '.bytes', name .. '.entries', name .. '.messages'
local held = redis.call('HMGET', HEAD, bytes_field, entries_field, messages_field)
local bytes, entries = tonumber(held[1] or 0), tonumber(held[2] or 0)
local messages = tonumber(held[3] or 0)

local time = redis.call('TIME')
local oldest = max_age > 0 and time[1] * 1000 + math.floor(time[2] / 1000) - max_age or 0

local function measure(fields)
  local size, n = ENTRY_OVERHEAD, 1
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
  if tonumber(id_ms) >= oldest and bytes <= max_bytes and removed_bytes >= free then
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
  -- Whatever the counts say: someone may have trimmed or deleted the stream by hand.
  redis.call('HDEL', HEAD, bytes_field, entries_field, messages_field)
elseif removed > 0 then
  local function text(number)
    return string.format('%.0f', math.max(number, 0))
  end
  redis.call('HSET', HEAD, bytes_field, text(bytes), entries_field, text(entries),
    messages_field, text(messages))
end
return { removed, removed_bytes, more }
