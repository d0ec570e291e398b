"""Gateway: reads the streams of Redis and serves them to WebSocket and SSE clients.

A message passes the packages in this order:

server      accept connections, read requests, turn some of them into clients
http        request and response values
admission   who sends a request, and whether limits allow it
endpoints   the routes of the public address
delivery    Redis -> rings -> channels, one read and one encoding per batch
clients     a client's ring position, flow control and replay
monitoring  metrics, health, the admin address and the registration in Redis

`app` creates all components and their tasks. `hub` holds the rings, channels and connections that
they share. `reload` applies a new configuration.

Tests: tests/gateway, by the same folders.
"""
