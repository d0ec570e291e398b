"""Which faults of answers are in force: set by the specification, changed while it runs.

Whether a fault hits a request is drawn from the seed by the number of requests it could have hit,
so the same requests in the same order meet the same faults.
"""

from collections.abc import Iterable, Sequence

import msgspec

from simlog.ctlog.request_target import RequestTarget
from simlog.fault_types import Malformed, Oversized, ServedFault, Status
from simlog.seeded import choose, uniform
from simlog.spec import Spec


class ActiveFault:
    """One fault of one log, from the time when it was set.

    Attributes:
        fault: what it does.
        zero: what its seconds count from, seconds since the epoch.
    """

    def __init__(self, fault: ServedFault, zero: float, label: str) -> None:
        self.fault = fault
        self.zero = zero
        self._label = label
        self._requests = 0

    def hit(self, seed: int, target: RequestTarget, size: int, now: float) -> float | None:
        """Return a random number in [0, 1) if it hits this request, else None."""
        fault = self.fault
        if not fault.in_force(now - self.zero, size) or fault.only not in (None, target.part):
            return None
        index = fault.index if isinstance(fault, Status | Oversized) else None
        if index is not None and index not in target.entries:
            return None
        chance = choose(seed, self._label, self._requests, 8)
        self._requests += 1
        return uniform(chance[4:]) if uniform(chance[:4]) < fault.share else None


class FaultMatch(msgspec.Struct, frozen=True):
    """A fault that hits a request, with luck in [0, 1) for what it leaves open."""

    active: ActiveFault
    luck: float


class ActiveFaults:
    """The faults of all logs of a world."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._by_log: dict[str, tuple[ActiveFault, ...]] = {}
        for log in spec.logs:
            served = [fault for fault in log.faults if not isinstance(fault, Malformed)]
            self.put(log.name, served, spec.start)

    def of(self, log: str) -> Sequence[ServedFault]:
        """Return the faults that are set on a log, in force or not."""
        return [active.fault for active in self._by_log.get(log, ())]

    def put(self, log: str, faults: Iterable[ServedFault], zero: float) -> None:
        """Replace the faults of a log. Their seconds count from `zero`."""
        self._by_log.pop(log, None)
        self.add(log, faults, zero)

    def add(self, log: str, faults: Iterable[ServedFault], zero: float) -> None:
        """Set more faults on a log, after those that are there."""
        active = self._by_log.get(log, ())
        active += tuple(
            ActiveFault(fault, zero, f"fault {log} {position}")
            for position, fault in enumerate(faults, len(active))
        )
        if active:
            self._by_log[log] = active

    def has_faults(self, log: str) -> bool:
        """Whether anything is set on a log at all."""
        return log in self._by_log

    def hits(self, log: str, target: RequestTarget, size: int, now: float) -> Sequence[FaultMatch]:
        """Return the faults that hit a request.

        Args:
            log: name of the log.
            target: the request.
            size: entries that the log has published.
            now: seconds since the epoch.
        """
        return [
            FaultMatch(active, luck)
            for active in self._by_log.get(log, ())
            if (luck := active.hit(self._spec.seed, target, size, now)) is not None
        ]
