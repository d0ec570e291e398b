-- Purpose: apply a token bucket and a sliding window to one request of each of several clients.
-- KEYS: limit:rate:<client> of each.
-- ARGV: for each the capacity, tokens refilled per second, burst, ms until the burst is available again,
-- ms of the window, requests per window.
-- Returns: for each {allowed, remaining, ms until the bucket is full, ms until a request is allowed}.
--
-- The sliding window is estimated from two fixed ones: the count of the previous window, weighted by the
-- share of it that the sliding window still covers, plus the count of the current one.
-- gateway/admission/rate_limiter.py implements the same in Python; a test compares them.

local now = now_ms()

local MAX_AHEAD_MS = 2000 -- a state further ahead of TIME is discarded

local replies = {}
for i = 1, #KEYS do
  local capacity, refill, burst, burst_ms, window, limit = unpack(ARGV, 6 * i - 5, 6 * i)
  capacity, refill, burst = tonumber(capacity), tonumber(refill) / 1000, tonumber(burst)
  burst_ms, window, limit = tonumber(burst_ms), tonumber(window), tonumber(limit)

  local state = redis.call('HMGET', KEYS[i], 'tokens', 'at', 'burst', 'burst_at', 'window', 'now', 'before')
  for field = 1, 7 do
    state[field] = tonumber(state[field])
  end
  if (state[2] or 0) > now + MAX_AHEAD_MS then
    state = {} -- written before the clock of Redis was set back: no client waits until it catches up
  end
  local at = state[2] or now
  local tokens = math.min((state[1] or capacity) + math.max(now - at, 0) * refill, capacity)
  local burst_used, burst_at = state[3] or 0, state[4] or now
  if now - burst_at >= burst_ms then
    burst_used, burst_at = 0, now
  end
  local start = now - now % window
  local current, before = 0, 0
  if state[5] == start then
    current, before = state[6], state[7]
  elseif state[5] == start - window then
    before = state[6]
  end

  local covered = before * (window - (now - start)) / window + current
  local fits = covered + 1 <= limit
  local reply
  if fits and (tokens >= 1 or burst_used + 1 <= burst) then
    if tokens >= 1 then
      tokens = tokens - 1
    else
      burst_used = burst_used + 1
    end
    current = current + 1
    redis.call('HSET', KEYS[i], 'tokens', string.format('%.6f', tokens), 'at', now,
      'burst', burst_used, 'burst_at', burst_at, 'window', start, 'now', current, 'before', before)
    redis.call('PEXPIRE', KEYS[i], math.ceil(math.max(2 * window, burst_ms, capacity / refill)))
    reply = { 1, math.max(0, math.floor(math.min(limit - covered - 1, tokens + burst - burst_used))), 0, 0 }
  else
    local wait = 0
    if not fits then
      wait = start + window - now
      if current + 1 <= limit then
        wait = window * (1 - (limit - 1 - current) / before) - (now - start)
      elseif limit >= 1 then
        wait = wait + window * math.max(1 - (limit - 1) / current, 0)
      end
    end
    if tokens < 1 and burst_used + 1 > burst then
      local refilled = (1 - tokens) / refill
      if burst >= 1 then
        refilled = math.min(refilled, burst_at + burst_ms - now)
      end
      wait = math.max(wait, refilled)
    end
    reply = { 0, 0, 0, math.max(1, math.ceil(wait)) }
  end
  reply[3] = math.ceil((capacity - tokens) / refill)
  replies[i] = reply
end
return replies
