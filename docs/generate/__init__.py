"""Generate the tables of docs/operations.md from the code: `python -m docs.generate`.

A generated part is between two comments, of which the first names it. It is replaced as a whole;
the rest of the page is written by hand.

    <!-- generated: settings -->
    | … |
    <!-- end -->
"""
