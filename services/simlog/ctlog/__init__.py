"""One simulated log: key, entries, Merkle tree, tree heads, and the endpoints of its API.

Guarantees, with the tests that hold them:

- What a log serves follows RFC 6962 or static-ct; no entry is served before a tree head has it
  (`tests/simlog/ctlog/test_serving.py`).
- Roots and proofs are those of RFC 6962 (`tests/simlog/ctlog/test_tree.py`).

How: `log` appends entries to its `tree` and signs heads. `rfc6962` and `static_ct` answer requests
from a `ServedLog`, which is the log or a view of it that faults have changed. `request_target`
names the endpoint and the entries of a request.
"""
