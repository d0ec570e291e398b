-- Purpose: read the ids of the oldest and the newest entry of a stream without their payload.
-- KEYS: the stream.
-- ARGV: none.
-- Returns: {oldest id, newest id}, or {} if the stream is empty.

local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not oldest then
  return {}
end
return {oldest[1], redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]}
