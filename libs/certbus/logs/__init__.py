"""The state of each log: who owns it, where it continues, whether it is available or retired.

Guarantees:

- One worker at a time can publish a log; each acquisition has a new fence (`test_leases.py`).
- A log keeps its position, counters and evidence under a better id (`test_registry.py`).
- A skip is recorded and counted, so the sum of the counters holds (`test_skip.py`).

How: `leases` acquires, renews and releases logs. `registry` has aliases, listed logs and
retirements. `tree_state` stores the tree head, the frontier and evidence of violations,
`circuit_state` the circuit breaker. `skip` advances a log past entries it cannot serve; a worker
that is too far behind skips under its lease.

The tests are in tests/certbus/logs.
"""
