-- Publishes one batch: the heart of certstream-server.
--
-- A batch is a window [first, next) of one log. All of it happens or nothing: the script reads
-- and checks everything first; its first write is the one that a full Redis refuses; nothing
-- after that can fail.
--
-- KEYS: head, log:<id>, stream:rejected, windows, then one stream for each of batch.streams.
-- ARGV: batch (JSON, `_Header` of publisher.py); the digests, SHA-256 and SHA-1 of each message;
-- the packed messages for each stream; the raw bytes of each rejected entry; then names and values
-- of more fields of the log.
--
-- Returns one of
--   {'published', entry id, next}       entry id '' if there was nothing to put into a stream
--   {'repeated', position, ...}         these were published meanwhile: nothing written
--   {'stale', next, newest entry id}    the log goes on elsewhere than at batch.first
--   {'fenced'}                          the lease was lost, maybe with the log's old id
--   {'missing'}                         the log is not there: Redis was emptied
--   {'streams', names}                  pack for these streams and try again

local DIGESTS = SHA256 + SHA1 -- bytes of both digests of a message
local SHA1_KEPT = 10 -- bytes of a SHA-1 that are kept, with the one in the key; also in lookup.py
local STREAM_COUNTERS = { '.bytes', '.entries', '.messages' }
-- ms beyond `remember` after which Redis removes marks by itself. expire_marks.lua removes them long
-- before; a clock that is ahead for a moment by less than this takes no mark away.
local SAFETY = 60 * 24 * 3600 * 1000
local ENTRY_OVERHEAD = 128 -- bytes that Redis needs for an entry beside its payload

local HEAD, LOG, REJECTED, WINDOWS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local batch = cjson.decode(ARGV[1])
local n, digests = batch.n, ARGV[2]
local blobs = 2 -- ARGV[blobs + i] is for the i-th stream
local raws = blobs + #KEYS - 4
local fields = raws + #batch.rejected

-- Reads `names` of a hash as a table of numbers; absent is 0, anything else is an error.
local function numbers(key, names)
  local values = call('HMGET', key, unpack(names))
  local read = {}
  for i, name in ipairs(names) do
    read[name] = assert(tonumber(values[i] or 0), key .. ' ' .. name .. ' is not a number')
  end
  return read
end

local function set_all(key, fields)
  local flat = {}
  for name, value in pairs(fields) do
    flat[#flat + 1] = name
    flat[#flat + 1] = type(value) == 'number' and string.format('%.0f', value) or value
  end
  call('HSET', key, unpack(flat))
end

---- Check ---------------------------------------------------------------------------------------

local log = call('HMGET', LOG, 'next', 'start', 'fence', 'renamed')
local log_next, log_start, fence, renamed = log[1], log[2], log[3], log[4]
if not log_next then
  return { renamed and 'fenced' or 'missing' }
end
if fence ~= batch.fence then
  -- Made again, further on, by a worker that knew less: the owner's own position is the better.
  if tonumber(log_start) > batch.first then
    return { 'missing' }
  end
  return { 'fenced' }
end
if tonumber(log_next) ~= batch.first then
  return { 'stale', log_next, call('HGET', HEAD, 'last') or '0-0' }
end

local head = call('HMGET', HEAD, 'epoch', 'last', 'streams', 'remember')
local epoch, last = head[1] or batch.epoch, head[2] or '0-0'
local begins = last == '0-0' -- nothing was published in this epoch yet
local streams, remember = head[3] or batch.streams, tonumber(head[4] or batch.remember)
if streams ~= batch.streams then
  return { 'streams', streams }
end

local now = now_ms()
local windows = read_windows(WINDOWS)
local marked = find_marks(batch.marks, digests, DIGESTS, windows_to_ask(windows, now, remember))
local repeated = { 'repeated' }
for position = 0, n - 1 do
  if marked[position] then
    repeated[#repeated + 1] = position
  end
end
if #repeated > 1 then
  return repeated
end

-- Windows whose marks Redis expired, or somebody deleted, while they were to be kept: from this batch
-- on, certificates may come that clients have already.
local forgotten = {}
if n > 0 and next(windows) then
  local filters, numbers = {}, {}
  for window, fields in pairs(windows) do
    if not fields.gone then
      filters[#filters + 1], numbers[#numbers + 1] = filter_key(batch.marks, window), window
    end
  end
  if #filters > 0 and call('EXISTS', unpack(filters)) < #filters then
    for i, filter in ipairs(filters) do
      if call('EXISTS', filter) == 0 then
        for name in pairs(windows[numbers[i]]) do
          forgotten[#forgotten + 1] = numbers[i] .. '.' .. name
        end
      end
    end
  end
end

-- The new id: above the last one, above every one this worker was given, and not in the past. Ids are
-- an order: where they are ahead of TIME, because its clock was, the sequence grows and the entry says
-- in `at` when it was made. The sequence follows TIME then: a Redis that lost its last second must not
-- give an id again, and another worker's floor may be lower than what was lost.
local id_ms, id_seq = now, 0
for _, floor in ipairs({ last, batch.floor }) do
  local ms, seq = string.match(floor, '^(%d+)-(%d+)$')
  ms, seq = tonumber(ms), tonumber(seq)
  if ms > id_ms or (ms == id_ms and seq >= id_seq) then
    id_ms, id_seq = ms, seq + 1
  end
end
if id_ms > now then
  id_seq = math.max(id_seq, now)
end
local id = string.format('%.0f-%.0f', id_ms, id_seq)

local counted = {}
for name in string.gmatch(streams .. ' rejected', '%S+') do
  for _, counter in ipairs(STREAM_COUNTERS) do
    counted[#counted + 1] = name .. counter
  end
end
local held = numbers(HEAD, counted)
local counters = numbers(LOG, { 'published', 'duplicates', 'rejected' })
call('XLEN', REJECTED) -- fails here, not later, if it is no stream
if n > 0 then
  for i = 5, #KEYS do
    -- Only someone else's hand can put an entry above `last` into a stream, or another type there.
    if #call('XRANGE', KEYS[i], id, '+', 'COUNT', 1) > 0 then
      return redis.error_reply('ERR ' .. KEYS[i] .. ' has entries above ' .. last .. ' of head')
    end
  end
end

---- Write ---------------------------------------------------------------------------------------

local function count(name, bytes, messages)
  held[name .. '.bytes'] = held[name .. '.bytes'] + bytes + ENTRY_OVERHEAD
  held[name .. '.entries'] = held[name .. '.entries'] + 1
  held[name .. '.messages'] = held[name .. '.messages'] + messages
end

local more = {} -- fields that few entries have
if id_ms > now then
  more = { 'at', string.format('%.0f', now) }
end
if #forgotten > 0 then
  more[#more + 1], more[#more + 2] = 'forgot', '1'
end

if n > 0 then
  local i = 0
  for name in string.gmatch(streams, '%S+') do
    i = i + 1
    call('XADD', KEYS[4 + i], id, 'prev', last, 'log', batch.log, 'first', batch.first,
      'last', batch.next - 1, 'n', n, 'codec', batch.codec, 'm', ARGV[blobs + i], unpack(more))
    count(name, #ARGV[blobs + i], n)
  end
end

for i, entry in ipairs(batch.rejected) do
  local raw = ARGV[raws + i]
  call('XADD', REJECTED, '*', 'log', batch.log, 'index', entry.index,
    'reason', entry.reason, 'raw', raw, 'size', entry.size)
  count('rejected', #entry.reason + #raw, 1)
end

counters.next = batch.next
counters.published = counters.published + n
counters.duplicates = counters.duplicates + batch.duplicates
counters.rejected = counters.rejected + #batch.rejected
set_all(LOG, counters)
if #ARGV > fields then
  call('HSET', LOG, unpack(ARGV, fields + 1))
end

if n > 0 or #batch.rejected > 0 or not head[1] then
  held.last = n > 0 and id or last
  if begins and n > 0 then
    held.first = id
  end
  held.epoch, held.format, held.streams, held.remember = epoch, batch.format, streams, remember
  set_all(HEAD, held)
end

-- Marks last: they are many, and by now nothing can refuse them.
if n > 0 then
  if #forgotten > 0 then
    call('HDEL', WINDOWS, unpack(forgotten))
    call('HSET', WINDOWS, 'cut', string.format('%.0f', now))
  end
  local window = window_at(now)
  local name = string.format('%d', window)
  local known = windows[name] or {}
  call('HSET', WINDOWS, name .. '.at', string.format('%.0f', now),
    name .. '.marks', string.format('%.0f', tonumber(known.marks or 0) + n), name .. '.last', id)
  if known.gone then
    call('HDEL', WINDOWS, name .. '.gone') -- it was being removed, and is used again
  end
  local expire = string.format('%.0f', now + remember + SAFETY)
  local filter = filter_key(batch.marks, window)
  local sha1_list = filter_key(batch.sha1_marks, window) .. ':'

  local bits = {}
  for position = 0, n - 1 do
    local m, offset = #bits, position * DIGESTS
    bits[m + 1], bits[m + 2], bits[m + 3], bits[m + 4] =
      'SET', 'u1', filter_bit(digests, offset), '1'
    bits[m + 5], bits[m + 6], bits[m + 7], bits[m + 8] =
      'SET', 'u1', bucket_bit(digests, offset), '1'
  end
  local before = call('BITFIELD', filter, unpack(bits))
  call('PEXPIREAT', filter, expire)

  for position = 0, n - 1 do
    local offset, place = position * DIGESTS, id .. '-' .. position

    local key = filter .. bucket(digests, offset)
    call('HSET', key, field(digests, offset), place)
    if before[2 * position + 2] == 0 then
      call('PEXPIREAT', key, expire)
    end

    offset = offset + SHA256
    key = sha1_list .. byte(digests, offset + 1)
    if call('RPUSH', key, sub(digests, offset + 2, offset + SHA1_KEPT), place) == 2 then
      call('PEXPIREAT', key, expire)
    end
  end
end

return { 'published', n > 0 and id or '', batch.next }
