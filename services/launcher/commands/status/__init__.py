"""`certstream-server status`: what Redis' directory says of logs, ingestors, gateways and streams.

looking.py   asking Redis
rates.py     how fast counters grow
report.py    the directory and the rates as one value: what `--json` prints
view.py      the same for a terminal, as wide as it is; the panel of `up` shows its first part
command.py   options; once, or again and again
"""
