"""Log lists: which logs to follow.

Guarantees, and the tests that hold them:

    only verified lists have an effect; an older one replaces no newer one   test_store.py
    one ingestor fetches each list; its size is bounded                      test_store.py
    all ingestors follow the same logs under the same ids                    test_catalog.py
    a list or an operator retires a log once, and it is read to its end      test_retirement.py

`source.py` verifies one list and `parser.py` parses it; `store.py` has the accepted copies.
`merge.py` merges listed and configured logs, `retirement.py` finds the retired ones.
`catalog.py` runs all of this and passes the logs to the worker.
"""
