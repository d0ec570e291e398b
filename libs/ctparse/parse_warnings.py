"""What could not be read in a certificate, and was left out: a line each, and not too many.

A crafted certificate can have a million oddities; the first few are kept.
"""

_MAX_PROBLEMS = 16


def add(problems: list[str], *texts: str) -> None:
    """Add to the problems of a certificate, as long as there is room."""
    problems.extend(texts[: _MAX_PROBLEMS - len(problems)])
