-- Takes a request's worth from the rates of many askers: a token bucket and a sliding window.
--
-- KEYS: limit:rate:<who> of each. ARGV for each: capacity, tokens refilled a second, burst, ms
-- until the burst may be used again, ms of the window, requests in it.
-- Returns for each {allowed, remaining, ms until the bucket is full, ms until another is allowed}.
--
-- The window counts by two halves: what the last whole window had, weighted by how much of it the
-- sliding window still covers, and what this one has. gateway/admission/local_rate_limiter.py is the same
-- in Python, and a test holds them together.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local AHEAD = 2000 -- ms that a state can be ahead of TIME and is still used

local replies = {}
for i = 1, #KEYS do
  local capacity, refill, burst, burst_ms, window, most = unpack(ARGV, 6 * i - 5, 6 * i)
  capacity, refill, burst = tonumber(capacity), tonumber(refill) / 1000, tonumber(burst)
  burst_ms, window, most = tonumber(burst_ms), tonumber(window), tonumber(most)

  local state = redis.call('HMGET', KEYS[i], 'tokens', 'at', 'burst', 'burst_at', 'window', 'now', 'before')
  for field = 1, 7 do
    state[field] = tonumber(state[field])
  end
  if (state[2] or 0) > now + AHEAD then
    state = {} -- written before the clock of Redis was set back: nobody waits for it to catch up
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
  local fits = covered + 1 <= most
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
    reply = { 1, math.max(0, math.floor(math.min(most - covered - 1, tokens + burst - burst_used))), 0, 0 }
  else
    local wait = 0
    if not fits then
      wait = start + window - now
      if current + 1 <= most then
        wait = window * (1 - (most - 1 - current) / before) - (now - start)
      elseif most >= 1 then
        wait = wait + window * math.max(1 - (most - 1) / current, 0)
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
