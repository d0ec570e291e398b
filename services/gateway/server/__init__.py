"""Sockets and HTTP/1.1 connections of the public address.

Guarantees, and the tests in `tests/gateway/server/` that hold them:

- A connection without a stream costs bounded memory and time: `test_listener.py`.
- A faulty connection affects no other one: `test_connection.py`.
- A changed certificate is served without a restart (`test_tls.py`).
- A stopping gateway closes its clients within `stop_timeout` (`test_drain.py`).

listener.py accepts and counts connections; connection.py reads and answers their requests, with
flow_control.py, until one becomes a client; tls.py reloads certificates; drain.py ends all.
The event loop's thread alone writes their state.
"""
