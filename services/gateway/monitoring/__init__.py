"""Monitoring: what a gateway reports about itself, its host and the cluster.

Guarantees:

* One scrape of any gateway returns the metrics of all processes of its host.
* A scrape delays no client: no exposition is parsed on the event loop beyond its families.
* Any number of requests causes at most one evaluation of the cluster and two collections of the
  host's metrics per second.

How:

collector      gauges and counters that are read at scrape time
report_cache   the report of the cluster (`certbus.cluster_report`), for /api, /health/deep, metrics
host_metrics   collect the metrics of the processes of this host, and label them
admin          the pages of the admin address
registration   the heartbeat of this gateway in Redis

`ReportCache.get` alone writes the problems that the collector exports.

Tests: tests/gateway/monitoring, tests/gateway/endpoints/test_api.py.
"""
