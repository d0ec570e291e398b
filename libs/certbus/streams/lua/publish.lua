-- Purpose: publish one batch: the window [first, next) of one log, whole or not at all. The script reads
-- and checks everything first. Its first write is the one that a full Redis rejects; no write after it
-- can fail.
-- KEYS: head, log:<id>, stream:rejected, windows, then one stream for each of batch.streams.
-- ARGV: the batch (JSON, `_send` of publisher.py); the digests, SHA-256 and SHA-1 of each message, and with
-- `dedup` = issuance after them the SHA-256 of each TBSCertificate; the
-- packed messages of each stream; the raw bytes of each rejected entry; then names and values of more
-- fields of the log.
-- Returns: one of
--   {'published', entry id, next}      entry id '' if no message was written
--   {'repeated', newest entry id, position, ...}   these messages were published before: nothing is
--                                      written
--   {'stale', next, newest entry id}   the log's `next` is not batch.first, or the streams no longer have
--                                      the entry that was the newest when duplicates were found
--   {'fenced'}                         the lease is lost, perhaps with the log's old id
--   {'missing'}                        the log does not exist: Redis was emptied
--   {'streams', names}                 the caller must pack for these streams and retry
--   {'dedup', what}                    the caller must send the digests for this and retry

local DIGESTS_BYTES = SHA256_BYTES + SHA1_BYTES -- of one message
local SHA1_KEPT_BYTES = 10 -- with the one in the key; as in cert_index.py
local STREAM_COUNTERS = { '.bytes', '.entries', '.messages' }
-- Expiry of marks beyond `remember`. expire_marks.lua removes them long before; a clock that is ahead by
-- less than this for a moment removes no mark.
local EXPIRY_MARGIN_MS = 60 * 24 * 3600 * 1000
local RESIDUES = 2 ^ 24 -- of sequence numbers; as in publisher.py
local ENTRY_OVERHEAD_BYTES = 128 -- memory of an entry beside its payload

local HEAD, LOG, REJECTED, WINDOWS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local batch = cjson.decode(ARGV[1])
local n, digests, issuances = batch.n, ARGV[2], nil
if batch.dedup == 'issuance' then
  digests, issuances = sub(digests, 1, n * DIGESTS_BYTES), sub(digests, n * DIGESTS_BYTES + 1)
end
local blobs = 2 -- ARGV[blobs + i] is for the i-th stream
local raws = blobs + #KEYS - 4
local fields = raws + #batch.rejected

-- Reads fields of a hash as a table of numbers. An absent field is 0, any other text an error.
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
    flat[#flat + 1] = type(value) == 'number' and text(value) or value
  end
  call('HSET', key, unpack(flat))
end

-- Returns whether an id is below another one. Text that is no id was written by hand; it is not.
local function is_below(id, other)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  if not (ms and other_ms) then
    return false
  end
  ms, other_ms = tonumber(ms), tonumber(other_ms)
  return ms < other_ms or (ms == other_ms and tonumber(seq) < tonumber(other_seq))
end

-- Returns whether the streams have an entry, or had it before they were trimmed. The last of them has the
-- smallest entries. Redis may have lost it with other writes that were acknowledged, as a replica does
-- that becomes the primary, or with all data. `last` and `first` are the ids of this epoch.
local function has_entry(id, last, first)
  if id == last or id == '0-0' then
    return true
  end
  if is_below(last, id) or is_below(id, first) then
    return false
  end
  local stream = KEYS[#KEYS]
  local found = call('XRANGE', stream, id, '+', 'COUNT', 1)[1]
  if found and found[1] == id then
    return true
  end
  local oldest = call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not oldest then
    return true -- all of it was trimmed
  end
  -- Trimmed entries are not above the one before the oldest, its `prev`.
  return found ~= nil and found[1] == oldest[1] and not is_below(oldest[2][2], id)
end

---- Check ---------------------------------------------------------------------------------------

local log = call('HMGET', LOG, 'next', 'start', 'fence', 'renamed')
local log_next, log_start, fence, renamed = log[1], log[2], log[3], log[4]
if not log_next then
  return { renamed and 'fenced' or 'missing' }
end
if fence ~= batch.fence then
  -- Another worker has created the log again, with a later start: the owner's position is the better.
  if tonumber(log_start) > batch.first then
    return { 'missing' }
  end
  return { 'fenced' }
end
if tonumber(log_next) ~= batch.first then
  return { 'stale', log_next, newest_id(call('HGET', HEAD, 'last'), 5) }
end

local head = call('HMGET', HEAD, 'epoch', 'last', 'streams', 'remember', 'dedup', 'first')
local epoch, last = head[1] or batch.epoch, newest_id(head[2], 5)
local is_first = last == '0-0' -- of this epoch
local streams, remember = head[3] or batch.streams, tonumber(head[4] or batch.remember)
if streams ~= batch.streams then
  return { 'streams', streams }
end
local dedup = head[5] or (head[3] and 'certificate') or batch.dedup
if dedup ~= batch.dedup then
  return { 'dedup', dedup }
end

if not has_entry(batch.known_at, last, head[6] or '0-0') then
  return { 'stale', log_next, last }
end

local now = now_ms()
local windows = read_windows(WINDOWS)
-- Marks come with entries: where the streams have none since the look-up, which found no mark of these
-- certificates, there is none now. The look-up does not search for issuances.
local is_current = batch.known_at == last
local searched = (issuances or not is_current) and windows_to_search(windows, now, remember)
local marked = is_current and {} or find_marks(batch.marks, digests, DIGESTS_BYTES, searched)
local issued = issuances and find_marks(batch.marks, issuances, SHA256_BYTES, searched) or {}
local repeated = { 'repeated', last }
for position = 0, n - 1 do
  if marked[position] or issued[position] then
    repeated[#repeated + 1] = position
  end
end
if #repeated > 2 then
  return repeated
end

-- Fields of windows whose marks expired in Redis, or were deleted by hand, before `remember` had passed:
-- from this batch on, certificates may be published a second time.
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

-- The new id: above the last one, above each one that this worker received, and not below TIME. Ids are
-- an order. A Redis that lost its last second must not issue an id again. TIME prevents that, unless ids are
-- ahead of it, because the clock was. Then the field `at` has the time, and the sequence number is random:
-- the floor of a worker may be lower than what another one published and Redis lost, or what it published
-- itself if the reply did not arrive. TIME makes that of a request that is sent again another one. While a
-- Redis publishes in place of what it lost, the numbers that it lost are every 2^23rd on average: so each new
-- batch has the id of a lost one with a probability of about 2^-23. A millisecond has room for a thousand
-- million batches, after which the next one begins.
local id_ms, id_seq = now, 0
for _, floor in ipairs({ last, batch.floor }) do
  local ms, seq = string.match(floor, '^(%d+)-(%d+)$')
  ms, seq = tonumber(ms), tonumber(seq)
  if ms > id_ms or (ms == id_ms and seq >= id_seq) then
    id_ms, id_seq = ms, seq + 1
  end
end
if id_ms > now then
  local residue = batch.residue + call('TIME')[2]
  id_seq = id_seq + (residue - id_seq) % RESIDUES
  if id_seq >= MAX_EXACT then
    id_ms, id_seq = id_ms + 1, residue % RESIDUES
  end
end
local id = text(id_ms) .. '-' .. text(id_seq)

local counted = {}
for name in string.gmatch(streams .. ' rejected', '%S+') do
  for _, counter in ipairs(STREAM_COUNTERS) do
    counted[#counted + 1] = name .. counter
  end
end
local window = window_at(now) -- of the new marks
local filter = filter_key(batch.marks, window)
local buckets = n > 0 and call('GETRANGE', filter, FILTER_BITS / 8, -1) -- see `has_bucket`

local held = numbers(HEAD, counted)
local counters = numbers(LOG, { 'published', 'duplicates', 'rejected' })
call('XLEN', REJECTED) -- fails here, not later, if it is no stream
if n > 0 then
  for i = 5, #KEYS do
    -- Only a write by hand can put an entry above `last` into a stream, or change the type of the key.
    if #call('XRANGE', KEYS[i], id, '+', 'COUNT', 1) > 0 then
      return redis.error_reply('ERR ' .. KEYS[i] .. ' has entries above ' .. last .. ' of head')
    end
  end
end

---- Write ---------------------------------------------------------------------------------------

local function count(name, bytes, messages)
  held[name .. '.bytes'] = held[name .. '.bytes'] + bytes + ENTRY_OVERHEAD_BYTES
  held[name .. '.entries'] = held[name .. '.entries'] + 1
  held[name .. '.messages'] = held[name .. '.messages'] + messages
end

local rare = {} -- fields that not all entries have
if id_ms > now then
  rare = { 'at', text(now) }
end
if #forgotten > 0 then
  rare[#rare + 1], rare[#rare + 2] = 'forgot', '1'
end
if batch.verified ~= 'uu' then
  rare[#rare + 1], rare[#rare + 2] = 'verified', batch.verified
end

if n > 0 then
  local i = 0
  for name in string.gmatch(streams, '%S+') do
    i = i + 1
    call('XADD', KEYS[4 + i], id, 'prev', last, 'log', batch.log, 'first', batch.first,
      'last', batch.next - 1, 'n', n, 'codec', batch.codec, 'm', ARGV[blobs + i], unpack(rare))
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
  if is_first and n > 0 then
    held.first = id
  end
  held.epoch, held.format, held.streams, held.remember = epoch, batch.format, streams, remember
  held.dedup = issuances and dedup or nil
  set_all(HEAD, held)
end

-- Marks last: they are many, and Redis rejects no write any more.
if n > 0 then
  if #forgotten > 0 then
    call('HDEL', WINDOWS, unpack(forgotten))
    call('HSET', WINDOWS, 'cut', text(now))
  end
  local name = string.format('%d', window)
  local known = windows[name] or {}
  call('HSET', WINDOWS, name .. '.at', text(now),
    name .. '.marks', text(tonumber(known.marks or 0) + (issuances and 2 * n or n)), name .. '.last', id)
  if known.gone then
    call('HDEL', WINDOWS, name .. '.gone') -- its removal had begun; it is in use again
  end
  local expire = text(now + remember + EXPIRY_MARGIN_MS)
  local sha1_lists = filter_key(batch.sha1_marks, window) .. ':'

  local places = {} -- of the messages, from 0
  for position = 0, n - 1 do
    places[position] = format('%s-%d', id, position)
  end

  local made = {} -- numbers of the hashes that this batch makes

  -- Sets the mark of one SHA-256 of each message; the digests are `stride` bytes apart.
  local function mark(sha256s, stride)
    local bits, m = {}, 0
    for position = 0, n - 1 do
      local offset = position * stride
      local bit = filter_bit(sha256s, offset)
      local number = bucket_number(bit)
      local key = bucket(filter, number)
      call('HSET', key, field(sha256s, offset), places[position])
      bits[m + 1], bits[m + 2], bits[m + 3], bits[m + 4] = 'SET', 'u1', format('%d', bit), '1'
      m = m + 4
      if not made[number] and not has_bucket(buckets, number) then
        made[number] = true
        call('PEXPIREAT', key, expire)
        bits[m + 1], bits[m + 2], bits[m + 3], bits[m + 4] =
          'SET', 'u1', format('%d', FILTER_BITS + number), '1'
        m = m + 4
      end
    end
    call('BITFIELD', filter, unpack(bits))
  end

  mark(digests, DIGESTS_BYTES)
  if issuances then
    mark(issuances, SHA256_BYTES)
  end
  call('PEXPIREAT', filter, expire)

  local lists = {} -- first byte of the SHA-1 -> what its list gets
  for position = 0, n - 1 do
    local offset = position * DIGESTS_BYTES + SHA256_BYTES
    local first = byte(digests, offset + 1)
    local rest = sub(digests, offset + 2, offset + SHA1_KEPT_BYTES)
    local list = lists[first]
    if list then
      local m = #list
      list[m + 1], list[m + 2] = rest, places[position]
    else
      lists[first] = { rest, places[position] } -- half the time of a table that grows
    end
  end
  for first, list in pairs(lists) do
    local key = format('%s%d', sha1_lists, first)
    if call('RPUSH', key, unpack(list)) == #list then
      call('PEXPIREAT', key, expire)
    end
  end
end

return { 'published', n > 0 and id or '', batch.next }
