"""The parts of docs/operations.md that are made of the code: `python -m docs.generate`.

A part stands between two comments that name it, and is replaced as a whole; the rest is written by
hand.

    <!-- generated: settings -->
    | … |
    <!-- end -->
"""
