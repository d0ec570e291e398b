"""Memory that a retention needs in Redis, and how far back a client can then resume. Pure.

The rate is that of the public logs. The sizes are measured: docs/scaling.md.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from certbus.keys import WINDOW_MS, DedupBy
from certbus.streams.retention import Retention

CERTIFICATES_PER_SEC: Final = 700
CERTIFICATE_BYTES: Final[Mapping[str, int]] = {"full": 1470, "lite": 340, "domains": 40}
"""Of one certificate in a stream, packed in batches of 16."""
MARK_BYTES: Final = 100
"""Of the dedup mark of one certificate, with its SHA-1 index."""
ISSUANCE_MARK_BYTES: Final = 60
"""Of the mark of its issuance, with `dedup.by: issuance`; at most one for each certificate."""
HEADROOM: Final = 1.25
"""`maxmemory` divided by the estimate."""


class RetentionPlan(msgspec.Struct, frozen=True):
    """What a retention needs and reaches at `CERTIFICATES_PER_SEC`.

    Attributes:
        reach_secs: by stream: how far back a client can resume.
        stream_bytes: by stream: memory in Redis.
        marks_bytes: memory of dedup marks.
    """

    reach_secs: dict[str, float]
    stream_bytes: dict[str, int]
    marks_bytes: int

    @property
    def max_memory(self) -> int:
        """The `maxmemory` of a Redis for it, in bytes."""
        return int((sum(self.stream_bytes.values()) + self.marks_bytes) * HEADROOM)

    def __str__(self) -> str:
        """Return the numbers for a person."""
        parts = {**self.stream_bytes, "dedup marks": self.marks_bytes}
        needs = ", ".join(f"{name} {mib(size)}" for name, size in parts.items())
        return f"{needs}, and a quarter more: {mib(self.max_memory)}"


def plan(retention: Mapping[str, Retention], dedup_secs: float, by: DedupBy) -> RetentionPlan:
    """Return the plan of a retention.

    Args:
        retention: of each stream.
        dedup_secs: the deduplication window; the longest retention is its minimum.
        by: with `issuance`, as many issuances as certificates, as if there were no pairs.
    """
    reach, size = {}, {}
    for name, each in CERTIFICATE_BYTES.items():
        limit, per_sec = retention[name], CERTIFICATES_PER_SEC * each
        reach[name] = min(limit.max_bytes / per_sec, limit.max_age_secs or float("inf"))
        size[name] = min(limit.max_bytes, int(reach[name] * per_sec))
    # Marks are removed by windows: they stay for a window longer than they must.
    remembered = max(dedup_secs, *(limit.max_age_secs for limit in retention.values()))
    mark = MARK_BYTES + (ISSUANCE_MARK_BYTES if by == "issuance" else 0)
    marks = int(CERTIFICATES_PER_SEC * (remembered + WINDOW_MS / 1000) * mark)
    return RetentionPlan(reach, size, marks)


def mib(size: int) -> str:
    """Return a size for a person."""
    return f"{size / (1 << 20):,.0f} MiB"
