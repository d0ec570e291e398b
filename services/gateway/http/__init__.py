"""Values of the gateway's HTTP API, without I/O: responses, subscriptions, errors.

`errors.py` is the one table of error codes, which `tests/gateway/endpoints/test_openapi.py`
compares with the OpenAPI document; `messages.py` has everything else. Requests are those of
`certhttp.protocol`.
"""
