-- Purpose: store the names, URLs, operators and states of logs. A log with a better id is left out.
-- KEYS: logs, then log:<id> of each log.
-- ARGV: number of fields, their names, then for each log its id and its values.
-- Returns: number of logs written.

local LOGS, fields = KEYS[1], tonumber(ARGV[1])

local written = 0
for i = 2, #KEYS do
  local at = 2 + fields + (i - 2) * (fields + 1)
  if redis.call('HEXISTS', KEYS[i], 'renamed') == 0 then
    redis.call('SADD', LOGS, ARGV[at])
    for field = 1, fields do
      redis.call('HSET', KEYS[i], ARGV[1 + field], ARGV[at + field])
    end
    written = written + 1
  end
end
return written
