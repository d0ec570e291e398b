"""The streams: publish batches, read them in order, retain a bounded amount.

Guarantees:

- A batch appears in all streams under the same id, whole, once (`test_publisher.py`).
- `prev` of each batch names the batch before it, so a reader detects what it misses
  (`test_continuity.py`, `test_reader.py`, `test_interleavings.py`).
- A full Redis delays publishing and loses nothing (`test_full_redis.py`); streams and marks stay
  within their limits (`test_retention.py`).

How: an ingestor finds known certificates and publishes a `Batch` with `publisher`; `codec` packs
it. `retention` trims. A gateway reads with `reader`, which decides with `continuity` what follows a
position, and yields `events`. `resume` resolves a cursor, `cert_index` finds a certificate by its
fingerprint, `rejected` reads the entries that were not published.

The tests are in tests/certbus/streams.
"""
