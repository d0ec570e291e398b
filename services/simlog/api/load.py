"""What serving a world costs this process, and whether it keeps its own schedule."""

import time
from array import array

import msgspec

MAX_ANSWERS = 1_000_000


class LoadReport(msgspec.Struct, frozen=True):
    """Load since the start of the process.

    Attributes:
        cpu_seconds: user and system time.
        wall_seconds: since the start.
        answers: sent.
        late_p50_ms, late_p99_ms, late_max_ms: how much later than planned they were sent.
    """

    cpu_seconds: float
    wall_seconds: float
    answers: int
    late_p50_ms: float
    late_p99_ms: float
    late_max_ms: float


class Load:
    """Measures the process that serves a world. A bench calls `/load` at both ends of a run."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._late = array("f")

    def answered(self, late: float) -> None:
        """Note that an answer was sent so many seconds after its planned time."""
        if len(self._late) < MAX_ANSWERS:
            self._late.append(late)

    def report(self) -> LoadReport:
        """Return the load so far."""
        late = sorted(self._late) or [0.0]
        return LoadReport(
            cpu_seconds=time.process_time(),
            wall_seconds=time.monotonic() - self._start,
            answers=len(self._late),
            late_p50_ms=1000 * late[len(late) // 2],
            late_p99_ms=1000 * late[len(late) * 99 // 100],
            late_max_ms=1000 * late[-1],
        )
