"""Who gets which certificate when."""

from collections import Counter, defaultdict
from itertools import islice, pairwise

import pytest

from simlog.schedule import Submission, submissions
from simlog.spec import LogSpec, Spec, spread
from tests.simlog.worlds import START, small


def schedule(spec: Spec, count: int) -> list[Submission]:
    return list(islice(submissions(spec), count))


def test_times_never_go_back_and_certificates_come_evenly() -> None:
    spec = small(rate=100.0, preload=50, total=1000)
    everything = schedule(spec, 10_000)
    assert all(a.time <= b.time for a, b in pairwise(everything))
    first: dict[int, int] = {}
    for each in everything:
        first.setdefault(each.certificate, each.time)
    assert [first[number] for number in range(1000)] == [
        round(1000 * START) + 10 * (number - 49) for number in range(1000)
    ]


def test_preloaded_certificates_lie_before_time_zero_and_the_others_after() -> None:
    spec = small(rate=1.0, preload=500, total=510)
    times = {each.certificate: each.time for each in reversed(schedule(spec, 10_000))}
    assert times[499] == 1000 * START
    assert times[500] > 1000 * START


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_the_share_of_repeated_entries_is_the_requested_one(share: float) -> None:
    spec = small(rate=100.0, preload=0, total=20_000, duplicates=share, logs=spread(10, 10, 5))
    everything = schedule(spec, 1_000_000)
    distinct = len({each.certificate for each in everything})
    assert distinct == 20_000
    assert abs(1 - distinct / len(everything) - share) < 0.01


def test_no_log_gets_a_certificate_twice() -> None:
    everything = schedule(small(duplicates=0.9, preload=2000), 100_000)
    logs = defaultdict(list)
    for each in everything:
        logs[each.certificate].append(each.log)
    assert all(len(set(homes)) == len(homes) for homes in logs.values())
    assert Counter(len(homes) for homes in logs.values())[4] > 1000


def test_logs_share_the_certificates_evenly() -> None:
    counts = Counter(each.log for each in schedule(small(preload=4000, duplicates=0.0), 4000))
    assert set(counts) == {0, 1, 2, 3}
    assert max(counts.values()) - min(counts.values()) < 200


def test_another_seed_is_another_world() -> None:
    assert schedule(small(), 500) == schedule(small(), 500)
    assert schedule(small(), 500) != schedule(small(seed=8), 500)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"duplicates": 1.0}, "duplicates"),
        ({"rate": -1.0}, "rate"),
        ({"preload": -1}, "preload"),
        ({"interval": 0.0}, "interval"),
        ({"max_entries": 0}, "max_entries"),
        ({"logs": ()}, "logs"),
        ({"logs": spread(1, 0, 1) * 2}, "logs"),
        ({"logs": (LogSpec("a/b", "rfc6962", "x"),)}, "logs"),
    ],
)
def test_a_world_that_cannot_be_is_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: "):
        small(**changes)
