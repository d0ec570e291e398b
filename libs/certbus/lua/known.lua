-- Which certificates have been published within what is remembered. Read only.
--
-- KEYS: head. ARGV: prefix of the SHA-256 marks, SHA-256 digests one after the other, ms that a
-- mark lives if there is no head yet.
-- Returns a string of '0' and '1', one for each digest.

local digests = ARGV[2]
local head = call('HMGET', KEYS[1], 'remember', 'last')
local remember = tonumber(head[1] or ARGV[3])
local marked = find_marks(ARGV[1], digests, SHA256, now_ms(head[2]), remember)

local known = {}
for number = 0, #digests / SHA256 - 1 do
  known[number + 1] = marked[number] and '1' or '0'
end
return table.concat(known)
