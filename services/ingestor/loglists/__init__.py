"""Which logs to follow, and as whom: log lists and configured logs become one set of `Log`.

`log.py` is what a log is and how it gets its id, `log_list.py` reads a list, `source.py` decides
whether to believe one, `library.py` has those that are believed, from Redis or their servers,
`merge.py` joins them with the logs configured by hand, `retirement.py` decides which logs are
over, `catalog.py` keeps the worker informed, and `peer_state.py` reads where another server's state
says to start.
"""
