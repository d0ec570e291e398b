-- Which certificates have been published within what is remembered. Read only.
--
-- KEYS: head, windows. ARGV: prefix of the SHA-256 marks, SHA-256 digests one after the other, ms that a
-- mark lives if there is no head yet.
-- Returns a string of '0' and '1', one for each digest.

local digests = ARGV[2]
local remember = tonumber(call('HGET', KEYS[1], 'remember') or ARGV[3])
local ask = windows_to_ask(read_windows(KEYS[2]), now_ms(), remember)
local marked = find_marks(ARGV[1], digests, SHA256, ask)

local known = {}
for number = 0, #digests / SHA256 - 1 do
  known[number + 1] = marked[number] and '1' or '0'
end
return table.concat(known)
