"""Everything that knows a Redis key. Nothing else does.

`keys` is the map of Redis. Ingestors use `leases` and `publisher` (and keep Redis within its
memory with `trimmer`), gateways use `reader`, `lookup` and `limits`, both report to the
`directory`. `shelf` has the log lists, `roll` the ids of logs, and which are over. `embedded` runs
a private redis-server.
"""
