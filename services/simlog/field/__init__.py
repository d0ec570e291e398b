"""Logs that answer as the public CT logs do: pages, latencies, limits and tree heads.

    operators   the table: the public operators of autumn 2026 and their logs
    heads       when a log signs a tree head, when it shows it, and which replica shows an older one
    behaviour   limits, latency and interruptions of one request

The behaviour of a log is data: `simlog.profile`, part of a `LogSpec`. A log without a
profile answers at once and without limits; faults (`simlog.fault_types`) apply to both.
Tests: tests/simlog/test_field.py.
"""
