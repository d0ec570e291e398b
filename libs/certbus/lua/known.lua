-- Which certificates have been published within what is remembered. Read only.
--
-- KEYS: head. ARGV: prefix of the SHA-256 marks, SHA-256 digests one after the other, ms that a
-- mark lives if there is no head yet.
-- Returns a string of '0' and '1', one for each digest.

local marks, digests = ARGV[1], ARGV[2]
local remember = tonumber(redis.call('HGET', KEYS[1], 'remember') or ARGV[3])
local prefixes = window_prefixes(marks, now_ms(), remember)

local known = {}
for offset = 0, #digests - SHA256, SHA256 do
  known[#known + 1] = is_marked(prefixes, digests, offset) and '1' or '0'
end
return table.concat(known)
