-- Purpose: move the state of a log to a better id, and make the old id an alias of it.
-- KEYS: log:<old>, log:<new>, lease:<old>, lease:<new>, evidence:<old>, evidence:<new>, logs.
-- ARGV: old id, new id, number of evidence entries to keep.
-- Returns: 1 if state was stored under the old id, 0 if only the alias was created.
--
-- The worker that holds the log under its old id is fenced, cannot create the log again, and finds it
-- under its new id. If both ids were followed, they become one log: it continues at the later position,
-- if no entry between the two positions is left out by that.

local OLD, NEW, OLD_LEASE, NEW_LEASE, OLD_EVIDENCE, NEW_EVIDENCE, LOGS = unpack(KEYS)
local old_id, new_id, evidence = ARGV[1], ARGV[2], ARGV[3]
local SUMMED = { 'alarms', 'stale', 'errors' } -- the other counters are those of the kept state

local call = redis.call

local old = call('HMGET', OLD, 'start', 'next', 'renamed')
local new = call('HMGET', NEW, 'start', 'next')
if old[3] then
  return 0
end

local both = old[2] and new[2]
local move = old[2] and true
if both then
  local old_start, old_next = tonumber(old[1]), tonumber(old[2])
  local new_start, new_next = tonumber(new[1]), tonumber(new[2])
  if old_next > new_next then
    move = old_start <= new_next
  else
    move = new_start > old_next
  end
end
local counted = both and call('HMGET', move and NEW or OLD, unpack(SUMMED)) or {}

call('DEL', OLD_LEASE) -- first, because a full Redis accepts it
if move then
  call('DEL', NEW, NEW_LEASE)
  call('RENAME', OLD, NEW)
  call('HDEL', NEW, 'owner')
else
  call('DEL', OLD)
end
call('HSET', OLD, 'renamed', new_id)
call('SREM', LOGS, old_id)
if not old[2] then
  return 0
end
call('SADD', LOGS, new_id)
for i, counter in ipairs(SUMMED) do
  if counted[i] then
    call('HINCRBY', NEW, counter, counted[i])
  end
end
for _, entry in ipairs(call('XRANGE', OLD_EVIDENCE, '-', '+')) do
  call('XADD', NEW_EVIDENCE, 'MAXLEN', evidence, '*', unpack(entry[2]))
end
call('DEL', OLD_EVIDENCE)
return 1
