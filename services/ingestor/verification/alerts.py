"""What is wrong with one log: told once while it lasts, counted by kind, kept as evidence.

    lie       found -> told, counted, evidence -> stands until something is proven again
    no proof  the same, but nobody has lied
    stale     a tree head older than one before: counted, nothing more

A log that has rewound goes on being rewound while its entries are proven, so that ends otherwise:
by a tree head that is as large as the one followed.

Where a lie comes and goes, each time is counted, but one of a kind in `TOLD` is told and kept: or
some odd entries in each window would drown the log lines, and drive other evidence out.
"""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Literal

import structlog

from certbus.ids import new_event
from certbus.logs.tree_state import TreeStateStore
from ingestor.client.errors import IntegrityViolation, ProofUnavailable, ViolationKind
from ingestor.log import Log
from ingestor.redis_retry import RedisRetry

State = Literal["proven", "unsigned", "unproven", "lying", "off"]
AlarmKind = ViolationKind | Literal["no_proof"]

TOLD = 600.0
"""Seconds for which nothing more is said of a kind of lie that was told."""

_log = structlog.get_logger(__name__)


class IntegrityAlerts:
    """The alarms of one log, while one worker follows it.

    Args:
        log: the log.
        ledger: where they are kept.
        patience: what to do while Redis is away.
        enforced: whether what is not proven is held back.
        clock: seconds.

    Attributes:
        counts: how many there were, by kind.
        stale_heads: how many tree heads were older than one before.
    """

    def __init__(
        self,
        log: Log,
        ledger: TreeStateStore,
        patience: RedisRetry,
        *,
        enforced: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts: Counter[AlarmKind] = Counter()
        self.stale_heads = 0
        self._log = log
        self._ledger = ledger
        self._patience = patience
        self._enforced = enforced
        self._clock = clock
        self._standing: set[AlarmKind] = set()
        self._quiet_until: dict[AlarmKind, float] = {}
        self._below = True  # whether Redis may say that the newest tree head was a smaller one

    @property
    def violating(self) -> bool:
        """Whether a lie stands."""
        return bool(self._standing - {"no_proof"})

    @property
    def unproven(self) -> bool:
        """Whether proofs are missing."""
        return "no_proof" in self._standing

    def way_out(self, error: IntegrityViolation | ProofUnavailable, next_index: int) -> str:
        """What becomes of the entries, and what an operator can do: the end of `last_error`."""
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

    async def violation(self, lie: IntegrityViolation, next_index: int) -> None:
        """The log has lied, while the entry `next_index` was the next to publish."""
        if lie.kind in self._standing:
            return
        self._count(lie.kind)
        now = self._clock()
        new = now >= self._quiet_until.get(lie.kind, now)
        if new:
            self._quiet_until[lie.kind] = now + TOLD
            _log.error(
                "log lies",
                log=self._log.name,
                kind=lie.kind,
                problem=lie.what,
                entries=self._fate(lie.kind),
            )
        alarm = partial(
            self._ledger.record_violation, self._log.id, lie.kind, lie.what, lie.heads, keep=new
        )
        error = lie.summary + self.way_out(lie, next_index)
        await self._patience(partial(alarm, event=new_event(), error=error))

    async def no_proof(self, error: ProofUnavailable, next_index: int) -> None:
        """The log has given no proof for so long that somebody should know."""
        if "no_proof" in self._standing:
            return
        self._count("no_proof")
        way_out = self.way_out(error, next_index)
        _log.warning(
            "log proves nothing",
            log=self._log.name,
            problem=error.problem + way_out,
            entries=self._fate("no_proof"),
        )
        kept = partial(
            self._ledger.record_missing_proof, self._log.id, error.problem + way_out, error.heads
        )
        summary = error.summary + way_out
        await self._patience(partial(kept, event=new_event(), error=summary))

    async def stale(self) -> None:
        """The log has shown a tree head older than one before."""
        self.stale_heads += 1
        self._below = True
        await self._patience(partial(self._ledger.record_stale_head, self._log.id, new_event()))

    def recovered(self) -> None:
        """Something was proven: what was wrong is over."""
        self._standing &= {"rewound"}

    async def size_recovered(self) -> None:
        """The log has shown a tree head as large as the one followed."""
        self._standing.discard("rewound")
        if self._below:
            await self._patience(partial(self._ledger.clear_stale_head, self._log.id))
            self._below = False

    def _fate(self, kind: AlarmKind) -> str:
        """What becomes of the entries."""
        if kind == "rewound":
            return "as they were"
        if not self._enforced:
            return "published all the same"
        return "rejected" if kind == "forged_precert" else "held back"

    def _count(self, kind: AlarmKind) -> None:
        self._standing.add(kind)
        self.counts[kind] += 1
