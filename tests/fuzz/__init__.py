"""Fuzzing: mutated inputs for everything that reads bytes from outside.

`python -m tests.fuzz` (or `make fuzz`) runs each target of `targets` on mutations of its seeds and
of `tests/fuzz/corpus`: inputs that reach code which the seeds do not, and former findings.
A finding is an exception that the target does not document, CPU time that is out of proportion to
the input or, for an input that repeats a part of itself, not linear in its length (`growth`), or
memory that grows by more than 64 MiB. `test_fuzz` runs the corpus and a few new mutations with each
test run.

`python -m tests.fuzz.guided` lets libFuzzer choose the mutations by the branches that they reach.
"""
