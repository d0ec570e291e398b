"""The address of one process, beside the one that it shares with others.

Whoever supervises it asks there whether it still answers; Prometheus, what it does.

address.py   opening one, and saying where it is
server.py    answering there
client.py    asking there
"""
