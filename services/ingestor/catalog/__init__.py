"""Which logs to follow, and as whom: log lists and configured logs become one set of `Log`.

`log.py` is what a log is and how it gets its id, `log_list.py` reads a list in Google's v3 format,
`sources.py` gets such lists from where they are published, `merge.py` joins them with the logs
configured by hand, and `peer_state.py` reads where another server's state says to start.
"""
