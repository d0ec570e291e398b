"""All logs of one specification, advanced by the clock."""

from collections.abc import Iterator

from simlog.ctlog.log import Log, LogKey
from simlog.fault_types import Malformed
from simlog.faults.active import ActiveFaults
from simlog.field.heads import HeadSchedule
from simlog.oracle.ground_truth import TruthEntry, truth_entry
from simlog.pki.certificates import Certificates
from simlog.schedule import Submission, submissions
from simlog.seeded import choose, uniform
from simlog.spec import Spec


class World:
    """The logs of one world at one moment.

    Attributes:
        spec: its specification.
        logs: by name, in the order of the specification.
        faults: which faults of their answers are in force.
        heads: when each log with a profile shows its tree heads, by name.
        complete: whether every certificate that there will be is under a tree head.
    """

    def __init__(self, spec: Spec) -> None:
        keys = [LogKey(spec.seed, log.name) for log in spec.logs]
        self.spec = spec
        self.certificates = Certificates(spec, tuple(key.log_id for key in keys))
        self.logs = {
            log.name: Log(log, key, self.certificates)
            for log, key in zip(spec.logs, keys, strict=True)
        }
        self.faults = ActiveFaults(spec)
        self.heads = {
            log.name: HeadSchedule(log.profile.heads, spec.seed, log.name, spec.start)
            for log in spec.logs
            if log.profile is not None
        }
        self.complete = False
        self._submissions = submissions(spec)
        self._next = next(self._submissions, None)
        self._by_position = tuple(self.logs.values())

    def advance(self, now: float, limit: int) -> bool:
        """Append at most `limit` submissions that are due at `now` (seconds since the epoch).

        When nothing due is left, every log publishes a tree head; one with a profile only when
        its schedule requires it.

        Returns:
            Whether something due is left, so that the caller can serve requests in between.
        """
        until = int(1000 * (now - self.spec.delay))
        for _ in range(limit):
            if self._next is None or self._next.time > until:
                break
            self._submit(self._next)
        else:
            return True
        for log in self._by_position:
            self._publish(log, now)
        self.complete = self._next is None and all(
            log.head.size == len(log.tree) for log in self._by_position
        )
        return False

    def entries(self) -> Iterator[TruthEntry]:
        """Yield every entry under the newest tree heads, log by log."""
        for name, log in self.logs.items():
            for index in range(log.head.size):
                yield truth_entry(name, index, log.entry(index), malformed=log.is_malformed(index))

    def _publish(self, log: Log, now: float) -> None:
        schedule = self.heads.get(log.spec.name)
        if schedule is None:
            log.publish(int(1000 * now))
        elif not schedule.shown:
            log.publish(int(1000 * now))
            schedule.start(now, log.head)
        elif head := schedule.advance(now, log.sign):
            log.head = head

    def _submit(self, submission: Submission) -> None:
        log = self._by_position[submission.log]
        malformed = self._is_malformed(log, submission.time)
        log.append(submission.certificate, submission.time, malformed=malformed)
        self._next = next(self._submissions, None)

    def _is_malformed(self, log: Log, time: int) -> bool:
        """Whether a log appends malformed bytes next (time: ms since the epoch)."""
        seed, name, index = self.spec.seed, log.spec.name, len(log.tree)
        return any(
            isinstance(fault, Malformed)
            and fault.in_force(time / 1000 - self.spec.start, index)
            and uniform(choose(seed, f"malformed {name}", index, 4)) < fault.share
            for fault in log.spec.faults
        )
