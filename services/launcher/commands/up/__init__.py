"""`certstream-server up`: everything on one machine.

command.py    the processes: what is started and stopped, in which order
demo.py       the simulated logs of `--demo`
port_check.py whether the port is free, and the URLs for clients
liveness.py   the probe of a child
dashboard.py  the dashboard on a terminal

Guarantees, and their tests in tests/launcher/commands/test_up.py: nothing is started if it cannot
serve; what exits or hangs is restarted; SIGINT and SIGTERM stop everything in order; SIGKILL leaves
no process behind.
"""
