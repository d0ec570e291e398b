-- Where the mark of a digest is. Put before the scripts that need it; keys.py has the layout.

local WINDOW = 30 * 60 * 1000 -- ms; WINDOW_MS in keys.py, LENGTH in expire_marks.lua
local SHA256, SHA1 = 32, 20 -- bytes
local call, byte, sub, floor = redis.call, string.byte, string.sub, math.floor
local CHUNK = 256 -- digests in one question to a filter: Lua hands a few thousand arguments on

-- TIME in ms.
local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

local function window_at(ms)
  return floor(ms / WINDOW)
end

local function filter_key(prefix, window)
  return string.format('%s%d', prefix, window)
end

-- Where a SHA-256 that begins after `offset` bytes is in the filter: its first 25 bits. (Text:
-- Redis would turn a number into text with the 17 digits of a double each time it is given one.)
local function filter_bit(digests, offset)
  local a, b, c, d = byte(digests, offset + 1, offset + 4)
  return string.format('%d', ((a * 256 + b) * 256 + c) * 2 + floor(d / 128))
end

-- The hash for it, after the filter's key: its first 14 bits; and the field in that hash: the rest.
local function bucket_number(digests, offset)
  local first, second = byte(digests, offset + 1, offset + 2)
  return first * 64 + floor(second / 4)
end

local function bucket(digests, offset)
  return string.format(':%d', bucket_number(digests, offset))
end

-- Behind the filter, a bit for each hash says whether it is there (and will expire).
local function bucket_bit(digests, offset)
  return string.format('%d', 33554432 + bucket_number(digests, offset))
end

local function field(digests, offset)
  return sub(digests, offset + 2, offset + SHA256)
end

-- Reads the hash `windows`, which names each window that has marks, also one whose number is ahead of
-- TIME because the clock of Redis was set back since. Returns a table: window -> table of its fields.
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

-- Which windows a look-up asks, a list of numbers: those in `windows`, and those that TIME allows for,
-- which a release before `windows` may have made.
local function windows_to_ask(windows, now, remember)
  local ask = {}
  for window in pairs(windows) do
    ask[#ask + 1] = tonumber(window)
  end
  for window = window_at(now), window_at(now - remember), -1 do
    if not windows[string.format('%d', window)] then
      ask[#ask + 1] = window
    end
  end
  return ask
end

-- Which SHA-256 digests are marked in one of the windows `ask`: a table with true at the number, from
-- 0, of each that is. They are `stride` bytes apart. The filter of a window says at once that most of
-- them are not.
local function find_marks(prefix, digests, stride, ask)
  local marked = {}
  local total = floor(#digests / stride)
  for start = 0, total - 1, CHUNK do
    local question = {}
    for number = start, math.min(start + CHUNK, total) - 1 do
      local n = #question
      question[n + 1], question[n + 2] = 'GET', 'u1'
      question[n + 3] = filter_bit(digests, number * stride)
    end
    for _, window in ipairs(ask) do
      local filter = filter_key(prefix, window)
      local bits = call('BITFIELD_RO', filter, unpack(question))
      for i, bit in ipairs(bits) do
        local number = start + i - 1
        local offset = number * stride
        if bit == 1 and not marked[number] then
          local key = filter .. bucket(digests, offset)
          marked[number] = call('HEXISTS', key, field(digests, offset)) == 1
        end
      end
    end
  end
  return marked
end
