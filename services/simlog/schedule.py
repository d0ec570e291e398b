"""Which certificate enters which log, and when: a fixed sequence, ordered in time.

Certificates are numbered from 0. Number n is due at a time that only the specification decides,
so they come evenly, and a restarted process continues with the same sequence.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate, count

import msgspec

from simlog.seeded import choose, uniform
from simlog.spec import Spec

MAX_LAG = 64
"""How many certificates later, at most, another log gets the same one."""

PRELOAD_RATE = 1000.0
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
    pace = spec.rate or PRELOAD_RATE
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


def mean_logs(spec: Spec) -> float:
    """Return how many logs a certificate enters on average."""
    return sum(spec.duplicates**more for more in range(_most_homes(spec)))


def _most_homes(spec: Spec) -> int:
    """The most logs of one certificate, so that no log is drawn twice."""
    return _most_of(tuple(log.growth for log in spec.logs))


@lru_cache(maxsize=8)
def _most_of(growths: tuple[float, ...]) -> int:
    return int(sum(growths) / max(growths) + 1e-9)


def _homes(spec: Spec, certificate: int) -> Iterator[tuple[int, int]]:
    """Yield the logs that get a certificate, each with its lag behind the first.

    Systematic sampling over the logs in random order: points at equal distances on a line on
    which each log has a stretch in proportion to its growth. So each log gets its share, however
    many logs are drawn, and none twice.
    """
    most, count = _most_homes(spec), len(spec.logs)
    chance = memoryview(choose(spec.seed, "submission", certificate, 4 + 8 * most + 4 * count))
    homes = 1
    while homes < most and uniform(chance[4 * homes : 4 * homes + 4]) < spec.duplicates:
        homes += 1
    shuffle = chance[4 + 8 * most :]
    order = sorted(range(count), key=lambda log: bytes(shuffle[4 * log : 4 * log + 4]))
    ends = list(accumulate(spec.logs[log].growth for log in order))
    step = ends.pop() / homes
    offset = uniform(chance[:4])
    drawn = [order[bisect_right(ends, (part + offset) * step)] for part in range(homes)]
    lags = chance[4 * most + 4 : 8 * most + 4]
    first = int(uniform(lags[:4]) * homes)
    for number, log in enumerate(drawn[first:] + drawn[:first]):
        yield log, int(uniform(lags[4 * number : 4 * number + 4]) * MAX_LAG)
