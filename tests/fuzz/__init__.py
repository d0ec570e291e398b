"""Fuzzing: mutated inputs for everything that reads bytes from outside.

`python -m tests.fuzz` (or `make fuzz`) runs each target of `targets` on mutations of its seeds. A
finding is an exception that the target does not document, CPU time that is out of proportion to the
input, or memory that grows with the number of inputs. `tests/fuzz/corpus` holds inputs that once
were findings; `test_fuzz` runs them and a few new mutations with each test run.

With the package `atheris` installed, `--coverage` lets it choose the mutations by the branches
that they reach.
"""
