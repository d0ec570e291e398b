-- Purpose: change fields of a hash in one step, with times from the clock of Redis.
-- KEYS: the hash (log:<id> or list:<id>); also evidence:<id> for the operation `evidence`.
-- ARGV: for each change its operation, a field and a value. Operations:
--   once       only as the first change: if the field holds the value, which identifies this call,
--              nothing is done, because the call was executed before and its reply was lost
--   set        store the value
--   time       store TIME plus the value, in ms, at least 0
--   time_once  the same, unless the field has a value
--   add        add the value to the number in the field
--   delete     delete the field; the value is ignored
--   evidence   append to the evidence, of which the newest `field` entries are kept; the value is a
--              JSON object
-- Returns: nothing.

local HASH, EVIDENCE = KEYS[1], KEYS[2]
local EVIDENCE_FIELDS = { 'kind', 'problem', 'log', 'tree_heads' }

if ARGV[1] == 'once' and redis.call('HGET', HASH, ARGV[2]) == ARGV[3] then
  return
end
local now = now_ms()

redis.call('HDEL', HASH, '') -- a full Redis accepts this first write, and then the others
for i = 1, #ARGV, 3 do
  local operation, field, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if operation == 'set' or operation == 'once' then
    redis.call('HSET', HASH, field, value)
  elseif operation == 'time' then
    redis.call('HSET', HASH, field, text(math.max(now + value, 0)))
  elseif operation == 'time_once' then
    redis.call('HSETNX', HASH, field, text(math.max(now + value, 0)))
  elseif operation == 'add' then
    redis.call('HINCRBY', HASH, field, value)
  elseif operation == 'evidence' then
    local evidence, entry = cjson.decode(value), {}
    for _, name in ipairs(EVIDENCE_FIELDS) do
      entry[#entry + 1] = name
      entry[#entry + 1] = evidence[name]
    end
    redis.call('XADD', EVIDENCE, 'MAXLEN', field, '*', unpack(entry))
  else
    redis.call('HDEL', HASH, field)
  end
end
