"""`certstream-server tail`: a client that prints messages, and resumes after a disconnect.

transports.py   one connection over WebSocket or SSE, as an iterator of messages
reconnect.py    reconnects with the last id; also reads from Redis
formats.py      a message as lines: names, JSON, or a template; filter lines
cursor_file.py  the id after which the next run continues
arguments.py    the options
command.py      prints lines, and a summary at the end

Guarantees: no message is missed without a note, and one run prints none twice
(tests/launcher/commands/test_tail.py). With a cursor file, this holds over all runs, except that a
crash repeats at most one second (tests/launcher/commands/test_cursor_file.py).
"""
