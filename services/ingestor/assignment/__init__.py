"""Assignment: which ingestor follows which log.

Guarantees, and the tests that hold them:

    one worker at a time publishes a log; a late one is fenced      tests/certbus/logs
    a free log is taken, also if its worker died                    test_serve.py, test_orphans.py
    loads even out when workers come and go, without moving back    test_balancer.py
    an error of one log ends no other log                           test_serve.py
    a retired log is read to its end, whatever the clocks           test_drain.py

`worker.py` runs the two loops of a worker: heartbeat and assignment. `balancer.py` computes the
plan from the heartbeats of all workers. `factory.py` makes the follower of a log and
`assigned_log.py` holds it, with its load. `start_position.py` finds where a new log starts.
"""
