"""Monitoring: what a gateway reports about itself, its host and the cluster.

Guarantees:

* One scrape of any gateway returns the metrics of all processes of its host.
* A scrape delays no client: no exposition is parsed on the event loop beyond its families.
* Any number of requests for health or metrics causes at most two evaluations per second.

How:

collector      gauges and counters that are read at scrape time
host_metrics   collect the metrics of the processes of this host; evaluate the cluster's health
merge_metrics  join expositions, with a label for the process
admin          the pages of the admin address
registration   the heartbeat of this gateway in Redis

`HostMetrics.watch` alone writes the problems that the collector exports.

Tests: tests/gateway/monitoring, tests/gateway/endpoints/test_api.py.
"""
