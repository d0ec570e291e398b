"""Filters of certificates: text, normal form, and an index that holds all of a process.

Guarantees:

* A line that is not valid is refused with the term, its position, and a suggestion.
* The index finds exactly the lines that hold, see `matching.holds`.
* A certificate is looked up once, whatever the number of filters in the index.
* A filter joins and leaves without a rebuild of the index.
* Patterns match in linear time, and every part of a filter is bounded (`grammar`, `regex`).

How:

grammar    parse lines and parameters into filters
names      the forms of a name that terms compare; public suffixes
lookalike  the rule of `like`
regex      RE2, and the literals of a pattern
matching   whether a term holds: the definition
words      many words searched together, in automata that are replaced in part
index      anchors of lines, lookup and verification
evaluator  one filter evaluated alone, for those that many certificates pass
public_suffix_table, confusables_table   data, written by tools/filter_tables.py

The package does no I/O and reads no clock. An index belongs to one task.

Tests: tests/ctfilter; like_pairs.txt there is the table of lookalikes, test_index.py compares the
index, and the evaluator of one filter, with an evaluation that shares no code with them.
"""

from ctfilter.evaluator import Evaluator
from ctfilter.grammar import (
    Filter,
    FilterError,
    Line,
    Term,
    parse_filter,
    parse_line,
    parse_named_filter,
)
from ctfilter.index import Index, IndexFull, Match, size_of
from ctfilter.matching import Certificate, holds

__all__ = (
    "Certificate",
    "Evaluator",
    "Filter",
    "FilterError",
    "Index",
    "IndexFull",
    "Line",
    "Match",
    "Term",
    "holds",
    "parse_filter",
    "parse_line",
    "parse_named_filter",
    "size_of",
)
