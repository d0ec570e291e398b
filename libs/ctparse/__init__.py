"""Parse and verify Certificate Transparency data. Pure: no I/O, no asyncio, no clock.

Guarantees:

- A response of a log becomes one `Entry` or `Rejected` per index, or is `Malformed` as a whole.
  No input raises another error (`tests/ctparse/test_properties.py`).
- An entry is the leaf that the log's tree covers: what a message states of a precertificate is
  compared with the leaf (`tests/ctparse/test_precert.py`).
- A certificate with one unreadable field still becomes a message: the field is null or absent and
  named in `Certificate.problems` (`tests/ctparse/test_certificate.py`).
- Messages are those of certstream (`tests/ctparse/test_wire_messages.py`,
  `tests/ctparse/test_v2_message.py`).
- A precertificate and the certificate issued for it have one issuance
  (`tests/ctparse/test_issuance.py`, with the signatures of real SCTs).

How:

- `rfc6962` and `static_ct` decode responses: entries, chains, tree heads. `tls` reads TLS vectors.
- `certificate` reads X.509 with `der`, `names`, `general_names`, `extensions`, `algorithms` and
  `times`; `wire_messages` writes the JSON messages, `v2_message` those of version 2 from them.
- `merkle` computes tree heads and verifies proofs, `hash_tiles` builds proofs from static-ct tiles,
  `signatures` verifies tree heads and lists, `precert` compares a precertificate with its leaf and
  finds the TBSCertificate that it shares with its certificate.
"""
