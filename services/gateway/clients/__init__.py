"""Clients: the protocols of WebSocket and SSE connections after the handshake.

Guarantees:

* A client that reconnects with a cursor receives what follows it, or first a gap message.
* A client that does not read costs one shared write, and is closed after `client_timeout`.
* A filter changes between two messages: none is lost, sent twice or judged by both filters.
* An unexpected error ends the connection of one client only.

How:

base           ring position and flow control of a client, and what all clients share
websocket      opening and closing handshake, pings and heartbeats (RFC 6455)
sse            the event stream and its comments (HTML standard, section 9.2)
replay         a task per client that serves it from Redis until the ring can
stall_timeout  close clients that read too slowly

A client's `position` and `paused` belong to its channel's flusher and its transport's callbacks.
While a replay runs, the replay alone writes messages and moves `position`.

Tests: tests/gateway/clients, tests/gateway/test_delivery_model.py, tests/gateway/test_stream.py.
"""
