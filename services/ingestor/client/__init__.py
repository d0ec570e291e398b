"""Clients: read one CT log over HTTP, by the API of RFC 6962 or static-ct.

Guarantees, and the tests that hold them:

    a response has a bounded size and time, also decompressed          test_http.py
    a listed log leads to no address inside the operator's network     test_addresses.py
    requests to an operator keep their distance and honour Retry-After  test_throttle.py
    a failing log is requested less often, and recovers                test_log_availability.py
    both APIs return the same entries, proofs and errors               test_clients.py

`interface.py` is the Protocol of a client; `rfc6962.py` and `static_ct.py` implement it, with
`issuers.py` for the issuers of static-ct entries, and `hybrid.py` for logs with both APIs.
`http.py` sends the requests, `addresses.py` checks where they lead, `errors.py` has the failures.
`throttle.py` spaces the requests to an operator: one `OperatorThrottle` each. `log_availability.py`
decides when a log is requested at all, and which requests are repeated: one `LogAvailability` each.
"""
