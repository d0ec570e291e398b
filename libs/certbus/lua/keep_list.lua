-- Keeps a copy of a log list, unless the one that is there is newer.
--
-- KEYS: list:<id>, lists. ARGV: list id, rank, body, signature, then names and values of what is
-- said about it.
-- Returns 1, or 0 if a newer one is there.

local LIST, LISTS = KEYS[1], KEYS[2]
local list_id, rank = ARGV[1], ARGV[2]

local held = redis.call('HGET', LIST, 'rank')
if held and held > rank then
  return 0
end
redis.call('SADD', LISTS, list_id)
-- What the server called the copy before is not what it calls this one.
redis.call('HDEL', LIST, 'etag', 'modified')
redis.call('HSET', LIST, 'rank', rank, 'body', ARGV[3], 'signature', ARGV[4], unpack(ARGV, 5))
return 1
