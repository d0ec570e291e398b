-- Purpose: remove the oldest window of marks once it has expired, a bounded number of keys per call.
-- KEYS: head, windows, then the streams that deduplication and look-ups serve.
-- ARGV: prefix of the SHA-256 marks, prefix of the SHA-1 index, ms of `remember` if `head` has none,
-- bytes that marks may use (0: no limit), keys to remove in one call.
-- Returns: {1 if more is to be removed, ms for which every published certificate is known, `remember`,
-- ms that the newest id is ahead of TIME, bytes that marks use (estimate)}.
--
-- A window expires `remember` ms after its newest mark. When the marks exceed their share of memory, the
-- oldest window expires earlier, unless a retained message has its mark in it. `windows` has `cut` after
-- such a removal: the time since which every certificate is known (ms). The resulting deduplication
-- window is stored in `head` as `window` (ms).

local HEAD, WINDOWS = KEYS[1], KEYS[2]
local marks, sha1_marks, share, work = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])

local WINDOW_MS = 30 * 60 * 1000 -- as in keys.py
local FILTER_BYTES, MARK_BYTES = 4 * 1024 * 1024, 98 -- bench/redis_cost.py measures them
local BUCKETS, SHA1_LISTS = 16384, 256
local CHUNK = 256

local now = now_ms()
local ages_are_valid = is_settled(HEAD, now)
local head = redis.call('HMGET', HEAD, 'remember', 'last')
local remember, last = tonumber(head[1] or ARGV[3]), head[2] or '0-0'
local ahead = math.max(tonumber(string.match(last, '^%d+') or 0) - now, 0)

local function id_numbers(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

-- Ids are an order, times are not: windows are ordered by the ids of their newest marks.
local function is_before(id, other)
  local ms, seq = id_numbers(id)
  local other_ms, other_seq = id_numbers(other)
  return ms < other_ms or (ms == other_ms and seq < other_seq)
end

local windows, order, bytes = {}, {}, 0
local stored = redis.call('HGETALL', WINDOWS)
for i = 1, #stored, 2 do
  local number, name = string.match(stored[i], '^(%d+)%.(%a+)$')
  if number then
    if not windows[number] then
      windows[number] = { number = number, last = '0-0', at = 0, marks = 0 }
      order[#order + 1] = windows[number]
    end
    windows[number][name] = name == 'last' and stored[i + 1] or tonumber(stored[i + 1])
  end
end
for _, window in ipairs(order) do
  bytes = bytes + FILTER_BYTES + window.marks * MARK_BYTES
  if window.at > now then -- written while the clock was ahead: its age counts from now
    window.at = now
    redis.call('HSET', WINDOWS, window.number .. '.at', text(now))
  end
end
table.sort(order, function(a, b) return is_before(a.last, b.last) end)

local function is_needed(window)
  for i = 3, #KEYS do
    local oldest = redis.call('XRANGE', KEYS[i], '-', '+', 'COUNT', 1)[1]
    if oldest and not is_before(window.last, oldest[1]) then
      return true
    end
  end
  return false
end

local oldest, more, is_cut = order[1], 0, false
local current = string.format('%d', math.floor(now / WINDOW_MS))
if oldest and (oldest.gone or oldest.number ~= current and (
    ages_are_valid and oldest.at < now - remember or
    share > 0 and bytes > share and not is_needed(oldest))) then
  local filter = marks .. oldest.number
  local sha1_list = string.format('%s%s:', sha1_marks, oldest.number)
  local first = oldest.gone or 0
  is_cut = oldest.at >= now - remember
  local stop = math.min(first + work, BUCKETS + SHA1_LISTS)
  if first == 0 then
    redis.call('UNLINK', filter)
  end
  for start = first, stop - 1, CHUNK do
    local keys = {}
    for n = start, math.min(start + CHUNK, stop) - 1 do
      keys[#keys + 1] = n < BUCKETS and string.format('%s:%d', filter, n)
        or string.format('%s%d', sha1_list, n - BUCKETS)
    end
    redis.call('UNLINK', unpack(keys))
  end
  if stop < BUCKETS + SHA1_LISTS then
    redis.call('HSET', WINDOWS, oldest.number .. '.gone', text(stop))
  else
    local number = oldest.number
    redis.call('HDEL', WINDOWS, number .. '.at', number .. '.marks', number .. '.last', number .. '.gone')
    table.remove(order, 1)
  end
  more = 1
end

-- The deduplication window in effect: `remember`, unless marks were removed early (`cut`).
local cut = tonumber(redis.call('HGET', WINDOWS, 'cut') or '')
if is_cut then
  cut = now
  for _, window in ipairs(order) do
    if not window.gone then
      cut = math.min(cut, window.at, tonumber(window.number) * WINDOW_MS)
    end
  end
  redis.call('HSET', WINDOWS, 'cut', text(cut))
end
local effect = remember
if cut then
  effect = math.min(math.max(now - cut, 0), remember)
  if effect == remember then
    redis.call('HDEL', WINDOWS, 'cut')
  end
end
local shown = tonumber(redis.call('HGET', HEAD, 'window') or '')
if head[1] and (not shown or math.abs(shown - effect) >= 60000 or (effect == remember) ~= (shown == remember)) then
  redis.call('HSET', HEAD, 'window', text(effect))
end
return { more, effect, remember, ahead, bytes }
