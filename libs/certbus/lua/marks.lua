-- Purpose: find and address deduplication marks. A prelude of scripts that read or write marks;
-- keys.py has the layout.
-- KEYS: none.
-- ARGV: none.
-- Returns: nothing; it defines functions.

local WINDOW_MS = 30 * 60 * 1000 -- as in keys.py and expire_marks.lua
local SHA256_BYTES, SHA1_BYTES = 32, 20
local call, byte, sub, format, floor = redis.call, string.byte, string.sub, string.format, math.floor
local FILTER_BITS = 2 ^ 25
local BIT_VALUES = { 128, 64, 32, 16, 8, 4, 2, 1 } -- of a byte, in the order of bitmaps
local CHUNK = 256 -- digests in one command: unpack() passes a few thousand arguments at most
local MAX_EXACT = 2 ^ 53 -- numbers are exact below it; parts of ids are milliseconds or smaller

-- Returns the newest id of all streams, which `head` stores. Text in `head` that is no id was written by
-- hand: the streams, whose keys are those from number `first` on, show the id.
local function newest_id(stored, first)
  local ms, seq = string.match(stored or '0-0', '^(%d+)-(%d+)$')
  if ms and tonumber(ms) < MAX_EXACT and tonumber(seq) < MAX_EXACT then
    return stored or '0-0'
  end
  local newest, newest_ms, newest_seq = '0-0', 0, 0
  for i = first, #KEYS do
    for _, entry in ipairs(call('XREVRANGE', KEYS[i], '+', '-', 'COUNT', 1)) do
      local ms, seq = string.match(entry[1], '^(%d+)-(%d+)$')
      ms, seq = tonumber(ms), tonumber(seq)
      if ms > newest_ms or (ms == newest_ms and seq > newest_seq) then
        newest, newest_ms, newest_seq = entry[1], ms, seq
      end
    end
  end
  return newest
end

local function window_at(ms)
  return floor(ms / WINDOW_MS)
end

local function filter_key(prefix, window)
  return format('%s%d', prefix, window)
end

-- Returns the number of the bit of a SHA-256, which begins after `offset` bytes, in the filter: its first
-- 25 bits.
local function filter_bit(digests, offset)
  local a, b, c, d = byte(digests, offset + 1, offset + 4)
  return a * 131072 + b * 512 + c * 2 + (d - d % 128) / 128
end

-- Returns the number of the hash with the mark of a SHA-256, whose bit in the filter is `bit`: its first
-- 14 bits. The hash has the key of the filter with this number after it (`bucket`); the field is the rest
-- of the digest.
local function bucket_number(bit)
  return (bit - bit % 2048) / 2048
end

local function bucket(filter, number)
  return format('%s:%d', filter, number)
end

-- Returns whether a hash exists (and has an expiry). `buckets` has one bit for each: the bytes after the
-- filter, fewer if the rest are 0.
local function has_bucket(buckets, number)
  local last = number % 8
  local eight, value = byte(buckets, (number - last) / 8 + 1) or 0, BIT_VALUES[last + 1]
  return eight % (2 * value) >= value
end

local function field(digests, offset)
  return sub(digests, offset + 2, offset + SHA256_BYTES)
end

-- Reads the hash `windows`: each window that has marks, including one whose number is ahead of TIME
-- because the clock of Redis was set back since. Returns a table: window -> table of its fields.
local function read_windows(key)
  local stored, windows = call('HGETALL', key), {}
  for i = 1, #stored, 2 do
    local window, name = string.match(stored[i], '^(%d+)%.(%a+)$')
    if window then
      windows[window] = windows[window] or {}
      windows[window][name] = stored[i + 1]
    end
  end
  return windows
end

-- Returns the numbers of the windows in which a look-up searches: those in `windows`, and those within
-- `remember` of TIME, which a release before `windows` may have made.
local function windows_to_search(windows, now, remember)
  local found = {}
  for window in pairs(windows) do
    found[#found + 1] = tonumber(window)
  end
  for window = window_at(now), window_at(now - remember), -1 do
    if not windows[format('%d', window)] then
      found[#found + 1] = window
    end
  end
  return found
end

-- Finds the SHA-256 digests that have a mark in one of the windows `numbers`. The digests are `stride`
-- bytes apart. Returns a table with true at the number, from 0, of each marked digest. The filter of a
-- window rules most digests out with one command; without a filter, the window has no marks.
local function find_marks(prefix, digests, stride, numbers)
  local marked, filters = {}, {}
  for _, window in ipairs(numbers) do
    local filter = filter_key(prefix, window)
    if call('EXISTS', filter) == 1 then
      filters[#filters + 1] = filter
    end
  end
  local total = #filters > 0 and floor(#digests / stride) or 0
  for start = 0, total - 1, CHUNK do
    local reads, n = {}, 0
    for number = start, math.min(start + CHUNK, total) - 1 do
      reads[n + 1], reads[n + 2] = 'GET', 'u1'
      reads[n + 3] = format('%d', filter_bit(digests, number * stride))
      n = n + 3
    end
    for _, filter in ipairs(filters) do
      local bits = call('BITFIELD_RO', filter, unpack(reads))
      for i, bit in ipairs(bits) do
        local number = start + i - 1
        if bit == 1 and not marked[number] then
          local offset = number * stride
          local key = bucket(filter, bucket_number(filter_bit(digests, offset)))
          marked[number] = call('HEXISTS', key, field(digests, offset)) == 1
        end
      end
    end
  end
  return marked
end
