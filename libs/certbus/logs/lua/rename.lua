-- Purpose: move the state of a log to a better id, and make the old id an alias of it.
-- KEYS: log:<old>, log:<new>, lease:<old>, lease:<new>, evidence:<old>, evidence:<new>, logs.
-- ARGV: old id, new id, number of evidence entries to keep.
-- Returns: 1 if state was stored under the old id, 0 if only the alias was created.
--
-- The worker that holds the log under its old id is fenced, cannot create the log again, and finds it
-- under its new id. If both ids were followed, they become one log: it continues at the later position,
-- if no entry between the two positions is left out by that. It is retired if a command retired either.

local OLD, NEW, OLD_LEASE, NEW_LEASE, OLD_EVIDENCE, NEW_EVIDENCE, LOGS = unpack(KEYS)
local old_id, new_id, evidence = ARGV[1], ARGV[2], ARGV[3]
local SUMMED = { 'alarms', 'stale', 'errors' } -- the other counters are those of the kept state

local call = redis.call

local function is_retired_by_command(log)
  local valid, retirement = pcall(cjson.decode, log[4] or '')
  return valid and type(retirement) == 'table' and retirement.by == 'command'
end

local FIELDS = { 'start', 'next', 'renamed', 'retiring', 'retired_why' }
local old, new = call('HMGET', OLD, unpack(FIELDS)), call('HMGET', NEW, unpack(FIELDS))
if old[3] then
  return 0
end

local both = old[2] and new[2]
local move = old[2] or (not new[2] and is_retired_by_command(old))
if both then
  local old_start, old_next = tonumber(old[1]), tonumber(old[2])
  local new_start, new_next = tonumber(new[1]), tonumber(new[2])
  if old_next > new_next then
    move = old_start <= new_next
  else
    move = new_start > old_next
  end
end
local kept, discarded = new, old
if move then
  kept, discarded = old, new
end
local stays_retired = is_retired_by_command(discarded) and not is_retired_by_command(kept)
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
if stays_retired then
  call('HSET', NEW, 'retiring', discarded[4], 'retired_why', discarded[5] or '')
end
if not (move or old[2] or stays_retired) then
  return 0
end
if both then
  call('HSET', NEW, 'merged', '1') -- otherwise, the owner of a discarded record restores its own start
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
