-- Changes fields of a log in one step, with times from the clock of Redis.
--
-- KEYS: log:<id>, and evidence:<id> for `evidence`. ARGV: for each change its operation, the field
-- and a value:
--   once       nothing at all is done if the field holds the value, which identifies this call: it
--              was executed before, and its reply was lost. Only as the first change.
--   set        the value
--   time       TIME plus the value, in ms
--   time_once  the same, unless the field has a value
--   add        the value added to the number that the field holds
--   delete     nothing; the value is ignored
--   evidence   adds an entry to the evidence, of which so many are kept as `field` says; the value
--              is an object in JSON

local LOG, EVIDENCE = KEYS[1], KEYS[2]
local EVIDENCE_FIELDS = { 'kind', 'problem', 'log', 'tree_heads' }

if ARGV[1] == 'once' and redis.call('HGET', LOG, ARGV[2]) == ARGV[3] then
  return
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('HDEL', LOG, '') -- first what a full Redis accepts: then it accepts the rest, too
for i = 1, #ARGV, 3 do
  local operation, field, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if operation == 'set' or operation == 'once' then
    redis.call('HSET', LOG, field, value)
  elseif operation == 'time' then
    redis.call('HSET', LOG, field, string.format('%.0f', now + value))
  elseif operation == 'time_once' then
    redis.call('HSETNX', LOG, field, string.format('%.0f', now + value))
  elseif operation == 'add' then
    redis.call('HINCRBY', LOG, field, value)
  elseif operation == 'evidence' then
    local evidence, entry = cjson.decode(value), {}
    for _, name in ipairs(EVIDENCE_FIELDS) do
      entry[#entry + 1] = name
      entry[#entry + 1] = evidence[name]
    end
    redis.call('XADD', EVIDENCE, 'MAXLEN', field, '*', unpack(entry))
  else
    redis.call('HDEL', LOG, field)
  end
end
