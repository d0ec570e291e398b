"""Monitoring: the metrics and health pages of one ingestor.

Guarantees, and the tests that hold them:

    every metric of the documentation and the alerts exists    monitoring/test_admin.py
    /health fails while Redis is unavailable                   monitoring/test_admin.py

`collector.py` reads metrics at scrape time; `ingestor.metrics` has those that are counted.
`health.py` answers the health pages.
"""
