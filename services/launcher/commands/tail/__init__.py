"""`certstream-server tail`: a client that prints what arrives and goes on where it was cut off.

sources.py   one connection to a WebSocket, an SSE stream or Redis, as an iterator of messages
following.py reconnecting with the last id
lines.py     a message as lines: names, JSON, or a template
arguments.py the options
command.py   printing, and what there was in the end
"""
