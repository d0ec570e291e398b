"""Limits that hold over all processes.

Guarantees:

- All gateways together admit no more connections than configured, and forget those of a gateway
  that stopped (`test_clients.py`).
- A client gets the requests of its rate, whichever gateway it uses (`test_clients.py`).
- All ingestors together send one request per interval to a log operator (`test_operators.py`).

How: `clients` has rates and connection counts, `operators` request slots. The tests are in
tests/certbus/limits.
"""
