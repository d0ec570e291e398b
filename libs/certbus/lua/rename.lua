-- Calls a log by a better id: all that is kept of it goes on under that, and the old id leads there.
--
-- Whoever holds the log under its old id has lost it: it is fenced, cannot make the log again, and
-- finds it under its new id. A log that was followed under both ids is one from then on: it goes on
-- from where either of them was, as far as nothing between them is left out by that.
--
-- KEYS: log:<old>, log:<new>, lease:<old>, lease:<new>, evidence:<old>, evidence:<new>, logs.
-- ARGV: old id, new id, how much evidence is kept.
-- Returns 1 if something was kept under the old id, 0 if it only leads to the new one now.

local OLD, NEW, OLD_LEASE, NEW_LEASE, OLD_EVIDENCE, NEW_EVIDENCE, LOGS = unpack(KEYS)
local old_id, new_id, evidence = ARGV[1], ARGV[2], ARGV[3]
local COUNTERS = { 'alarms', 'stale', 'errors' } -- the others are those of what is kept

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
local counted = both and call('HMGET', move and NEW or OLD, unpack(COUNTERS)) or {}

call('DEL', OLD_LEASE) -- first, as it is allowed when Redis is full
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
for i, counter in ipairs(COUNTERS) do
  if counted[i] then
    call('HINCRBY', NEW, counter, counted[i])
  end
end
for _, entry in ipairs(call('XRANGE', OLD_EVIDENCE, '-', '+')) do
  call('XADD', NEW_EVIDENCE, 'MAXLEN', evidence, '*', unpack(entry[2]))
end
call('DEL', OLD_EVIDENCE)
return 1
