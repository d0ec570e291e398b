"""Everything that knows a Redis key. No other package does.

Guarantees:

- For every log at every instant: published + duplicates + rejected + skipped = next - start
  (`tests/certbus/streams/test_publisher.py`, `tests/certbus/logs/test_skip.py`).
- A batch, with its marks, position, tree state and counters, is written whole or not at all, by
  one script (`tests/certbus/streams/test_publisher.py`,
  `tests/certbus/streams/test_full_redis.py`).
- A worker without the newest fence of a log cannot write (`tests/certbus/logs/test_leases.py`,
  `tests/certbus/streams/test_lost_writes.py`).
- A reader gets every batch that Redis retains, in order, or a gap or rewind before what follows
  (`tests/certbus/streams/test_continuity.py`, `tests/certbus/streams/test_reader.py`).
- A wrong clock of Redis loses nothing (`tests/certbus/test_clock.py`); a lost reply counts nothing
  twice (`tests/redis_faults/test_bus.py`).

How:

- `keys` lists every key, its type and its lifetime. `store` is the base of all modules that keep
  something: scripts, round trips, values. Each state change is one script, so there is no state in
  between.
- `connection` makes clients, `errors` names the kinds of errors that they raise. `acl` lists the
  commands, as the rights of a user.
- `streams` publishes, reads and trims; `logs` has leases, positions and states of logs; `limits`
  counts requests and connections over all processes; `caches` has log lists and issuers.
- `cluster` stores and reads which processes, logs and streams there are, `server_state` the state
  of Redis itself. `cluster_health` evaluates both, and `cluster_report` is all of it as one value.
"""
