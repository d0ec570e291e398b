"""Entries of one log between two indexes, proven against one tree head. Nothing is published.

app     finds the log and opens it
reader  the range, as messages of version 2
pace    request slots with the lowest priority

How:

    head       requested once; its signature is verified if the log's key is known
    frontier   of the entries before the range, from the inclusion proof of its first entry
    run        consecutive entries; the frontier, extended by their leaves, must lead to the root
               of the head, or to an inclusion proof (`verification/entry_proofs.py`)

A run that is not proven is bisected: the entries before the first one that no proof covers are
returned, and none after it. A proof that the log refuses is requested again before that. Like an
ingestor, it leaves out entries that cannot be read, and precertificates that their leaves do not
commit to.

It needs no lease and writes nothing to Redis but the request slots of the operator. Its requests
have the lowest priority: while others reserve slots of the operator, it takes at most one in
`SLOT_SHARE`. Without Redis the process keeps the interval alone.

Tests: tests/ingestor/backfill.
"""
