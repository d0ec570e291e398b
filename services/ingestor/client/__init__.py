"""Reading one log over HTTP: RFC 6962 and static-ct behind one small interface.

`protocol.LogClient` is what a follower sees. `rfc6962.py` and `static_ct.py` implement it on
`fetch.py`, which turns one URL into one bounded body, and `errors.py` says what can go wrong.
Decoding is ctparse's; nothing here knows what an entry looks like inside.
"""
