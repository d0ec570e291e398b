"""Which certificate enters which log, and when: a fixed sequence, ordered in time.

Certificates are numbered from 0. Number n is due at a time that only the specification decides,
so they come evenly, and a process that fell behind or was restarted knows what it owes.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import count

import msgspec

from simlog.chance import draw, fraction
from simlog.spec import Spec

LAG = 64
"""How many certificates later, at most, another log gets the same one."""

PRELOAD_PACE = 1000.0
"""Entries a second before time zero when the specification names no rate."""


class Submission(msgspec.Struct, frozen=True, gc=False):
    """One entry-to-be.

    Attributes:
        time: when the log timestamps it, milliseconds since the epoch.
        certificate: its number.
        log: position of the log in the specification.
    """

    time: int
    certificate: int
    log: int


def issued_at(spec: Spec, certificate: int) -> int:
    """When that certificate is first submitted, milliseconds since the epoch."""
    pace = spec.rate or PRELOAD_PACE
    return round(1000 * (spec.start + (certificate - spec.preload + 1) / pace))


def submissions(spec: Spec) -> Iterator[Submission]:
    """All submissions of a world in the order of their times."""
    total = spec.preload if spec.rate == 0 else spec.total
    later: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    certificates = count() if total is None else range(total)
    time = 0
    for number in certificates:
        time = issued_at(spec, number)
        for position, (log, lag) in enumerate(_homes(spec, number)):
            if position == 0:
                yield Submission(time, number, log)
            else:
                later[number + lag].append((number, log))
        for repeated, log in later.pop(number, ()):
            yield Submission(time, repeated, log)
    for due in sorted(later):
        for repeated, log in later[due]:
            yield Submission(time, repeated, log)


def _homes(spec: Spec, certificate: int) -> Iterator[tuple[int, int]]:
    """Yield the logs that get a certificate, each with its lag behind the first."""
    logs = list(range(len(spec.logs)))
    chance = draw(spec.seed, "submission", certificate, 12 * len(logs))
    for at in range(0, len(chance), 12):
        pick, again, lag = (fraction(chance[at + n : at + n + 4]) for n in (0, 4, 8))
        yield logs.pop(int(pick * len(logs))), int(lag * LAG)
        if again >= spec.duplicates:
            return
