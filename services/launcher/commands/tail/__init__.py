"""`certstream-server tail`: a client that prints messages, and resumes after a disconnect.

transports.py one connection over WebSocket or SSE, as an iterator of messages
reconnect.py  reconnects with the last id; also reads from Redis
formats.py    a message as lines: names, JSON, or a template
arguments.py  the options
command.py    prints lines, and a summary at the end

Guarantee: no message is missed without a note, and none is printed twice. Tests:
tests/launcher/commands/test_tail.py.
"""
