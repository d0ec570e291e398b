-- Purpose: what the scripts that skip entries of a log share.
-- KEYS: none.
-- ARGV: none.
-- Returns: nothing; it defines a function.

local ENTRY_OVERHEAD_BYTES = 128 -- as in publish.lua

-- Records that the entries [first, to) were skipped, in `stream:rejected` and in the fields of the log, and
-- sets more fields of the log. Its first write is the one that a full Redis rejects.
local function record_skip(keys, log_id, first, to, reason, event, skipped, fields)
  redis.call('XADD', keys.rejected, '*', 'log', log_id, 'index', text(first), 'last', text(to - 1),
    'reason', reason, 'raw', '', 'size', '0')
  redis.call('HINCRBY', keys.head, 'rejected.bytes', #reason + ENTRY_OVERHEAD_BYTES)
  redis.call('HINCRBY', keys.head, 'rejected.entries', 1)
  redis.call('HINCRBY', keys.head, 'rejected.messages', 1)
  redis.call('HSET', keys.log, 'next', text(to), 'skipped', text(skipped + to - first),
    'skip', text(first) .. '-' .. text(to - 1) .. ': ' .. reason, 'skip_at', text(now_ms()),
    'skip_event', event, unpack(fields))
end
