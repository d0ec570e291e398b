"""What could not be read in a certificate, and was left out: a line each, and not too many.

A certificate may be odd in a million places, if someone made it for that; the first few tell.
"""

_MAX_PROBLEMS = 16


def add(problems: list[str], *texts: str) -> None:
    """Add to the problems of a certificate, as long as there is room."""
    problems.extend(texts[: _MAX_PROBLEMS - len(problems)])
