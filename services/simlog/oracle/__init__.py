"""The oracle: compares what was delivered with the record of a world.

Guarantee: it finds each loss, repetition and alteration, and nothing else
(`tests/simlog/oracle/test_oracle.py`).

How: `ground_truth` writes and reads the record, one entry a line. `oracle` compares deliveries with
it, and `check_message` one message with its entry, from the certificate itself.
"""
