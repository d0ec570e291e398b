"""Verification: only entries that a signed tree head of the log proves are published.

Guarantees, and the tests that hold them:

    misbehaviour of a log is named, withheld and kept as evidence      test_verifier.py
    an honest log is never accused, whatever fails                     test_proofs.py
    a frontier in Redis never runs ahead of or behind the entries      pipeline/test_crash.py
    older tree heads are accepted up to the MMD                        test_tree_heads.py
    a log without proofs is verified by reading it twice               test_two_pass.py

    tree head -> signature, order, split view -> the head to reach         tree_heads.py
    windows -> leaf hashes -> frontier -> its root, or a proof's           entry_proofs.py
    precertificates -> their leaves                                        precerts.py

`Verifier.verify` returns values (`VerifiedWindow`) and leaves the frontier as it is. The follower
publishes each value, with the frontier after it, and then calls `Verifier.mark_verified`: what is
in Redis and what the verifier knows are the same. `missing_proofs.py` decides when a log is known
to return no proofs; `alerts.py` reports and stores what is wrong. docs/integrity.md describes what
is proven.
"""
