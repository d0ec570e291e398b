"""Faults of logs: which are in force, and what they do to answers and to the log itself.

Guarantees, with the tests that hold them:

- Every fault does what its name states, and only that (`tests/simlog/faults/test_faults.py`).
- A misbehaving log contradicts what it signed in exactly the stated way
  (`tests/simlog/faults/test_misbehaviour.py`).
- The same requests in the same order meet the same faults (`tests/simlog/faults/test_faults.py`).

How: `active` decides which faults hit a request. `inject` passes a request through them:
`misbehaviour` shows another view of the log, `http_faults` changes the answer.
"""
