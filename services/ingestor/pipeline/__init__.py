"""The pipeline of one log, from its tree head to Redis.

Guarantees, and the tests that hold them:

    every entry is published once and in order, wherever a process is killed   test_crash.py
    position, frontier and messages are written in one step                    test_publish.py
    what has no message is a duplicate or rejected, and counted                test_publish.py
    windows arrive in order, with bounded memory                               test_prefetch.py
    an entry that cannot be read stops only its log; an operator can skip it   test_skip.py

`follower.py` is the loop: head -> fetch -> verify -> publish -> mark verified. `prefetch.py`
fetches windows ahead, as large as `window_size.py` has found useful. `publish.py` makes batches of
a verified window and publishes them. `poll_schedule.py` decides when to poll.
"""
