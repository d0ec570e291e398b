"""What processes fetched from elsewhere and share: log lists and issuer certificates.

Guarantees: nothing is trusted because it is in Redis. A list is stored with its signature and
verified by each process that loads it (`tests/ingestor/loglists/test_store.py`). An issuer
certificate matches its fingerprint (`tests/certbus/caches/test_issuers.py`). Both are bounded.

How: `log_lists` also decides which process fetches a list, and when. `issuers` is in 16 parts that
expire separately.
"""
