"""`certstream-server up`: everything on one machine.

command.py    the processes: what is started and stopped, in which order
demo.py       the simulated logs of `--demo`
addresses.py  whether the port is free, the URLs for clients, the probe of a child
dashboard.py  the dashboard on a terminal

Guarantees, and their tests in tests/launcher/commands/test_up.py: nothing is started if it cannot
serve; what exits or hangs is restarted; SIGINT and SIGTERM stop everything in order; SIGKILL leaves
no process behind.
"""
