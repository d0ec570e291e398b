-- Where the mark of a digest is. Put before the scripts that need it; see keys.py for the layout.

local WINDOW = 30 * 60 * 1000 -- ms; WINDOW_MS in keys.py
local SHA256, SHA1 = 32, 20 -- bytes

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The windows in which a mark that is at most `remember` ms old can be, newest first.
local function windows(now, remember)
  local list = {}
  for window = math.floor(now / WINDOW), math.floor((now - remember) / WINDOW), -1 do
    list[#list + 1] = window
  end
  return list
end

-- The bucket of the digest that begins after `offset` bytes: its first 14 bits.
local function bucket(digests, offset)
  local first, second = string.byte(digests, offset + 1, offset + 2)
  return first * 64 + math.floor(second / 4)
end

-- The field in that bucket: the bytes of the digest after the first.
local function field(digests, offset, length)
  return string.sub(digests, offset + 2, offset + length)
end

-- prefixes[i] .. bucket is the key in window i.
local function is_marked(prefixes, digests, offset)
  local number, rest = bucket(digests, offset), field(digests, offset, SHA256)
  for _, prefix in ipairs(prefixes) do
    if redis.call('HEXISTS', prefix .. number, rest) == 1 then
      return true
    end
  end
  return false
end

local function window_prefixes(marks, now, remember)
  local prefixes = windows(now, remember)
  for i, window in ipairs(prefixes) do
    prefixes[i] = marks .. string.format('%d:', window)
  end
  return prefixes
end
