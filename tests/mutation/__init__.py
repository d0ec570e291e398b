"""Mutation testing: whether the tests of a module notice that its code is wrong.

    python -m tests.mutation [--mutants N] [--seed N] [MODULE ...]

mutants      what can be changed in Python and Lua source
__main__     the modules with their tests, and the command

Each mutant is one change, drawn by seed, in a copy of the source. It is killed if one of the
module's tests fails or exceeds its time. A survivor is equivalent, or a test is missing. The tests
that failed most often for their time run first, and the run ends with the first that fails. After
the last mutant, all tests must pass without one.
"""
