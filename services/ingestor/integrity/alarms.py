"""What is wrong with one log: told once while it lasts, counted by kind, kept as evidence.

    lie       found -> told, counted, evidence -> stands until something is proven again
    no proof  the same, but nobody has lied
    stale     a tree head older than one before: counted, nothing more

A log that has rewound goes on being rewound while its entries are proven, so that ends otherwise:
by a tree head that is as large as the one followed.
"""

from collections import Counter
from functools import partial
from typing import Literal

import structlog

from certbus.ledger import Ledger
from ingestor.catalog.log import Log
from ingestor.ctclient.errors import Lie, LieKind, Unproven
from ingestor.outage import Patience

State = Literal["proven", "unsigned", "unproven", "lying", "off"]
AlarmKind = LieKind | Literal["no_proof"]

_log = structlog.get_logger(__name__)


class Alarms:
    """The alarms of one log, while one worker follows it.

    Args:
        log: the log.
        ledger: where they are kept.
        patience: what to do while Redis is away.
        enforced: whether what is not proven is held back.

    Attributes:
        counts: how many there were, by kind.
        stale_heads: how many tree heads were older than one before.
    """

    def __init__(self, log: Log, ledger: Ledger, patience: Patience, *, enforced: bool) -> None:
        self.counts: Counter[AlarmKind] = Counter()
        self.stale_heads = 0
        self._log = log
        self._ledger = ledger
        self._patience = patience
        self._entries = "held back" if enforced else "published all the same"
        self._standing: set[AlarmKind] = set()

    @property
    def lying(self) -> bool:
        """Whether a lie stands."""
        return bool(self._standing - {"no_proof"})

    @property
    def unproven(self) -> bool:
        """Whether proofs are missing."""
        return "no_proof" in self._standing

    async def lie(self, lie: Lie) -> None:
        """The log has lied."""
        if lie.kind in self._standing:
            return
        self._count(lie.kind)
        _log.error(
            "log lies",
            log=self._log.name,
            kind=lie.kind,
            problem=lie.problem,
            entries="as they were" if lie.kind == "rewound" else self._entries,
        )
        alarm = partial(self._ledger.alarm, self._log.id, lie.kind, lie.problem, lie.heads)
        await self._patience(alarm)

    async def no_proof(self, error: Unproven) -> None:
        """The log has given no proof for so long that somebody should know."""
        if "no_proof" in self._standing:
            return
        self._count("no_proof")
        _log.warning(
            "log proves nothing",
            log=self._log.name,
            problem=error.problem,
            entries=self._entries,
        )
        await self._patience(
            partial(self._ledger.no_proof, self._log.id, error.problem, error.heads)
        )

    async def stale(self) -> None:
        """The log has shown a tree head older than one before."""
        self.stale_heads += 1
        await self._patience(partial(self._ledger.stale, self._log.id))

    def proven(self) -> None:
        """Something was proven: what was wrong is over."""
        self._standing &= {"rewound"}

    def as_large_as_ever(self) -> None:
        """The log has shown a tree head as large as the one followed."""
        self._standing.discard("rewound")

    def _count(self, kind: AlarmKind) -> None:
        self._standing.add(kind)
        self.counts[kind] += 1
