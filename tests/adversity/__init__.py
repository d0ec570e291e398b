"""Runs of the whole server under random faults, each judged by what Redis and the logs held.

Theory of operation. A seed decides a plan (`faults.py`): which faults, when, with which values.
A run (`run.py`) starts real processes (`cluster.py`), lets the faults happen while simulated logs
grow and clients read (`clients.py`), waits until everything is quiet, and judges (`invariants.py`)
with two sources of truth that no fault reaches: the record of the simulated logs, and the
append-only files of Redis, which have everything that Redis ever held (`lines.py`).
"""
