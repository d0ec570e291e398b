"""The integrity alerts of one log: logged once while they last, counted by kind, kept as evidence.

    violation   logged, counted, stored as evidence; active until entries are proven again
    no proof    the same; it is no violation
    stale       a tree head older than one before: only counted

A rewound log remains rewound while its entries are proven, so that alert ends with a tree head as
large as the verified one.

What comes and goes is counted each time. One of each kind in `REPEAT_AFTER_SECS` is
logged and stored: otherwise a few odd entries in each window would flood the log output and
displace other evidence.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

import structlog

from certbus.ids import new_event
from certbus.logs.tree_state import TreeStateStore
from ingestor.client.errors import IntegrityViolation, ProofUnavailable, ViolationKind
from ingestor.log import Log
from ingestor.redis_retry import RedisRetry

State = Literal["proven", "unsigned", "unproven", "lying", "off"]
AlarmKind = ViolationKind | Literal["no_proof"]

REPEAT_AFTER_SECS = 600.0

_log = structlog.get_logger(__name__)


class IntegrityAlerts:
    """The alerts of one log, while one worker follows it. Only the log's task writes it.

    Args:
        log: the log.
        tree_states: stores them.
        redis_retry: repeats Redis calls while Redis is away.
        enforced: whether unproven entries are withheld.
        clock: monotonic, seconds.

    Attributes:
        counts: alerts by kind.
        stale_heads: number of tree heads older than one before.
    """

    def __init__(
        self,
        log: Log,
        tree_states: TreeStateStore,
        redis_retry: RedisRetry,
        *,
        enforced: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts: Counter[AlarmKind] = Counter()
        self.stale_heads = 0
        self._log = log
        self._tree_states = tree_states
        self._redis_retry = redis_retry
        self._enforced = enforced
        self._clock = clock
        self._active: set[AlarmKind] = set()
        self._silent_until: dict[AlarmKind, float] = {}
        # Whether Redis may have it that the newest tree head is smaller than the verified one.
        self._regression_stored = True

    @property
    def violating(self) -> bool:
        """Whether a violation is active."""
        return bool(self._active - {"no_proof"})

    @property
    def unproven(self) -> bool:
        """Whether proofs are missing."""
        return "no_proof" in self._active

    def way_out(self, error: IntegrityViolation | ProofUnavailable, next_index: int) -> str:
        """Return the end of `last_error`: what happens to the entries, what an operator can do."""
        if isinstance(error, IntegrityViolation) and error.kind in (
            "rewound",
            "forged_precert",
            "wrong_issuer",
        ):
            return {
                "rewound": f"; nothing is published until the log has more than {next_index} "
                'entries; for a log that was wiped, see "A log that begins anew" in the runbook',
                "forged_precert": "; `certstream-server rejected` shows it",
                "wrong_issuer": "; the chain is published without it",
            }[error.kind]
        if not self._enforced:
            return f"; entries from {next_index} on are published unproven"
        return (
            f"; entries from {next_index} on are withheld; `integrity: warn` for this log, or "
            "ct_log.integrity, publishes them unproven"
        )

    async def report(self, error: IntegrityViolation | ProofUnavailable, next_index: int) -> None:
        """Report what was found when entry `next_index` was the next to publish."""
        way_out = self.way_out(error, next_index)
        kind: AlarmKind = "no_proof"
        problem = error.problem + way_out
        if isinstance(error, IntegrityViolation):
            kind, problem = error.kind, error.what
        if kind in self._active:
            return
        self._active.add(kind)
        self.counts[kind] += 1
        now = self._clock()
        new = now >= self._silent_until.get(kind, now)
        if new:
            self._silent_until[kind] = now + REPEAT_AFTER_SECS
            name, entries = self._log.name, self._effect(kind)
            if kind == "no_proof":
                _log.warning("log proof missing", log=name, problem=problem, entries=entries)
            else:
                _log.error(
                    "log verification failed", log=name, kind=kind, problem=problem, entries=entries
                )
        await self._redis_retry(
            self._tree_states.record_alarm,
            self._log.id,
            kind,
            problem,
            error.heads,
            keep=new,
            event=new_event(),
            error=error.summary + way_out,
        )

    async def stale(self) -> None:
        """Count a tree head older than one before."""
        self.stale_heads += 1
        self._regression_stored = True
        record = self._tree_states.record_stale_head
        await self._redis_retry(record, self._log.id, new_event())

    def recovered(self) -> None:
        """End the alerts that a proof ends."""
        self._active &= {"rewound"}

    async def size_recovered(self) -> None:
        """End `rewound`: the log has shown a tree head as large as the verified one."""
        self._active.discard("rewound")
        if self._regression_stored:
            await self._redis_retry(self._tree_states.clear_stale_head, self._log.id)
            self._regression_stored = False

    def _effect(self, kind: AlarmKind) -> str:
        """Return what happens to the entries."""
        if kind == "rewound":
            return "unchanged"
        if not self._enforced:
            return "published"
        return "rejected" if kind == "forged_precert" else "withheld"
