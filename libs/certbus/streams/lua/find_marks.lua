-- Purpose: find which certificates were published within `remember`. Read only.
-- KEYS: head, windows, then the streams.
-- ARGV: prefix of the SHA-256 marks, concatenated SHA-256 digests, ms that a mark lives if `head` does
-- not exist yet.
-- Returns: a string of '0' and '1', one for each digest; and the newest entry id of the streams.

local digests = ARGV[2]
local remember = tonumber(call('HGET', KEYS[1], 'remember') or ARGV[3])
local windows = windows_to_search(read_windows(KEYS[2]), now_ms(), remember)
local marked = find_marks(ARGV[1], digests, SHA256_BYTES, windows)

local known = {}
for number = 0, #digests / SHA256_BYTES - 1 do
  known[number + 1] = marked[number] and '1' or '0'
end
return { table.concat(known), newest_id(call('HGET', KEYS[1], 'last'), 3) }
