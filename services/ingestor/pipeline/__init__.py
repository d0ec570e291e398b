"""The pipeline of one log, from its tree head to Redis.

Guarantees, and the tests that hold them:

    every entry is published once and in order, wherever a process is killed   test_crash.py
    position, frontier and messages are written in one step                    test_publish.py
    what has no message is a duplicate or rejected, and counted                test_publish.py
    entries arrive in order, with bounded memory; one request is one page      test_prefetch.py
    a tree head is polled when a new one is likely                             test_poll_schedule.py
    an entry that cannot be read stops only its log; an operator can skip it   test_skip.py

`follower.py` is the loop: head -> fetch -> verify -> publish -> mark verified. `prefetch.py`
fetches entries ahead, in the pages that `page_size.py` has learned. `publish.py` makes batches of
a verified window and publishes them. `poll_schedule.py` decides when to poll, `partial_tile.py`
when the newest tile is read, and `catch_up.py` when a log that is too far behind skips.
"""
