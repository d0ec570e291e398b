"""`certstream-server status`: the state of logs, ingestors, gateways and streams in Redis.

report.py    the snapshot of a cluster and its rates as one value: what `--json` prints
render.py    a report for a terminal, as wide and high as it is
watch.py     collects reports; also for the dashboard of `up`
command.py   the options; one report, or a new one every second

The judgement of a cluster and its logs is `certbus.cluster_health`, shared with the gateway's
/health/deep and /api/logs.

Tests: tests/launcher/commands/test_status.py; that the names in the JSON stay, too.
"""
