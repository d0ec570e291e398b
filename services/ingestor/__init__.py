"""The ingestor: reads CT logs, verifies their entries, and publishes them to Redis Streams.

Any number of ingestors share the logs through Redis. An entry goes one way:

    loglists      log lists and configuration -> the logs to follow
    assignment    which ingestor follows which log
    client        HTTP to one log, RFC 6962 or static-ct; throttles and circuit breaker
    pipeline      the loop of one log: tree head -> fetch -> verify -> publish -> mark verified
    verification  signatures and proofs: which entries may be published
    monitoring    metrics and health pages

Each package states its guarantees and their tests. `window.py` and `log.py` are the values that the
packages exchange. `app.py` makes all parts. `cpu.py` shares the CPU time among the logs, and
`redis_retry.py` repeats Redis calls during an outage.
"""
