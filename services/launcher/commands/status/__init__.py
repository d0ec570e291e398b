"""`certstream-server status`: the state of logs, ingestors, gateways and streams in Redis.

render.py    a report for a terminal, as wide and high as it is
watch.py     a new report every second; also for the dashboard of `up`
command.py   the options; one report, or `watch`

The report is `certbus.cluster_report`; the gateway's /api and /health/deep show parts of the same.

Tests: tests/launcher/commands/test_status.py; that the names in the JSON stay, too.
"""
