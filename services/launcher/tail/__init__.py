"""`certstream-server tail`: a client that prints what arrives and goes on where it was cut off.

sources.py   one connection to a WebSocket, an SSE stream or Redis, as an iterator of messages
command.py   reconnecting with the last id, and printing
"""
