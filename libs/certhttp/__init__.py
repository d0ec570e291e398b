"""HTTP/1.1 for every process: one protocol, a server and a client for admin listeners, TLS files.

Guarantees:

- A malformed, slow or oversized request is answered with an error and a stable code, and ends its
  own connection only (`tests/certhttp/test_server.py`, `tests/certhttp/test_connections.py`).
- Each step of a connection has a time-out, and no body is produced faster than the client reads
  (`tests/certhttp/test_connections.py`).
- A certificate is served only if certificate and key match (`tests/gateway/server/test_tls.py`).

Files:

protocol.py   requests and responses of one connection without I/O; the gateway uses it, too
server.py     a server with asyncio streams, and the pages of an admin listener
client.py     a request to an admin listener
address.py    admin addresses: `host:port` or `unix:<path>`
tls.py        certificate files, read and checked
"""
