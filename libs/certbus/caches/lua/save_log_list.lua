-- Purpose: store a copy of a log list, unless the stored one is newer.
-- KEYS: list:<id>, lists.
-- ARGV: list id, rank, body, signature, then names and values of more fields.
-- Returns: 1, or 0 if the stored copy is newer.

local LIST, LISTS = KEYS[1], KEYS[2]
local list_id, rank = ARGV[1], ARGV[2]

local held = redis.call('HGET', LIST, 'rank')
if held and held > rank then
  return 0
end
redis.call('SADD', LISTS, list_id)
-- The validators belong to the copy that is replaced.
redis.call('HDEL', LIST, 'etag', 'modified')
redis.call('HSET', LIST, 'rank', rank, 'body', ARGV[3], 'signature', ARGV[4], unpack(ARGV, 5))
return 1
