"""The retention that fits a machine, and the numbers of one that does not."""

import msgspec
import pytest

from certbus.streams.memory import ISSUANCE_MARK_BYTES
from certconf import Config, Retention, RetentionLimit
from launcher.commands.up.memory import fitting_retention
from launcher.runtime.supervisor import StartError

GIB = 1 << 30
HOUR = 3600


def test_the_default_holds_an_hour_of_lite_and_domains() -> None:
    sizes, planned = fitting_retention(Config(), 8 * GIB)
    assert sizes == {}
    assert planned.reach_secs["lite"] == planned.reach_secs["domains"] == HOUR
    assert planned.stream_bytes["full"] == GIB
    assert planned.reach_secs["full"] == pytest.approx(GIB / 700 / 1470)
    assert planned.marks_bytes == 700 * (HOUR + HOUR // 2) * 100
    parts = sum(planned.stream_bytes.values()) + planned.marks_bytes
    assert parts * 1.2 < planned.max_memory < 3 * GIB, "the maxmemory of deploy/"


def test_a_small_machine_gets_a_quarter_of_the_default_sizes() -> None:
    sizes, planned = fitting_retention(Config(), 2 * GIB)
    default = Retention()
    for stream, limit in (("full", default.full), ("lite", default.lite)):
        assert sizes[f"retention.{stream}.max_bytes"] == limit.max_bytes // 4
    assert 14 * 60 < planned.reach_secs["lite"] < 16 * 60
    assert planned.max_memory < 1.1 * GIB


def test_a_configured_retention_stays_or_is_refused_with_the_numbers() -> None:
    small = msgspec.structs.replace(Retention(), full=RetentionLimit(GIB // 8))
    config = msgspec.structs.replace(Config(), retention=small)
    assert fitting_retention(config, 3 * GIB)[0] == {}
    with pytest.raises(StartError) as refused:
        fitting_retention(config, GIB)
    for number in ("1,024 MiB", "full 128 MiB", "lite 817 MiB", "dedup marks 360 MiB", "700"):
        assert number in str(refused.value)


def test_a_long_deduplication_window_counts() -> None:
    dedup = msgspec.structs.replace(Config().dedup, ttl_secs=48 * HOUR)
    config = msgspec.structs.replace(Config(), dedup=dedup)
    with pytest.raises(StartError, match="dedup marks 11,6"):
        fitting_retention(config, 8 * GIB)


def test_marks_of_issuances_count() -> None:
    dedup = msgspec.structs.replace(Config().dedup, by="issuance")
    config = msgspec.structs.replace(Config(), dedup=dedup)
    _, planned = fitting_retention(config, 8 * GIB)
    _, default = fitting_retention(Config(), 8 * GIB)
    marks = 700 * (HOUR + HOUR // 2)
    assert planned.marks_bytes == default.marks_bytes + marks * ISSUANCE_MARK_BYTES
    assert default.max_memory < planned.max_memory < 4 * GIB
