"""The specification of a world. Everything else follows from it, and from the time."""

from typing import Literal

import msgspec

from simlog.fault_types import AnyFault
from simlog.profile import Profile

Kind = Literal["rfc6962", "static-ct"]
DataTiles = Literal["none", "same", "indexed"]


class LogSpec(msgspec.Struct, frozen=True):
    """One log.

    Attributes:
        name: its path on the server, and its name in the log list.
        kind: which API it serves.
        operator: who runs it, for the log list.
        faults: what is wrong with it, and when.
        growth: its share of all entries, relative to the other logs.
        profile: how it answers; None: at once, without limits, heads at the world's interval.
        data_tiles: whether an RFC 6962 log also serves full data tiles and issuers, but no
            checkpoint, no partial and no hash tiles: `same` if the leaf of its tree has the
            `leaf_index` of the tile's leaf, `indexed` if only the tile's leaf has it.
    """

    name: str
    kind: Kind
    operator: str
    faults: tuple[AnyFault, ...] = ()
    growth: float = 1.0
    profile: Profile | None = None
    data_tiles: DataTiles = "none"

    @property
    def is_hybrid(self) -> bool:
        """Whether it serves both APIs."""
        return self.data_tiles != "none" or (
            self.profile is not None and self.profile.has_data_tiles
        )


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """One world.

    Attributes:
        logs: the logs, each with a name of its own.
        start: the world's time zero, seconds since the epoch. Worlds with the same specification
            and the same start hold the same entries with the same timestamps.
        seed: where keys, certificates and the choice of logs come from.
        rate: new certificates a second over all logs, evenly spread. 0: nothing after `preload`.
        preload: certificates that the logs hold at time zero.
        total: certificates after which nothing more is issued, `preload` included; None: never.
        duplicates: the probability that an entry's certificate is submitted to one more log, so
            about this share of all entries repeats what another log holds.
        interval: seconds between tree heads.
        delay: seconds from an entry's timestamp to the first tree head that includes it (the
            merge delay of RFC 6962 section 3).
        max_entries: get-entries answers no more than this many at once, as real logs do.
        mmd: maximum merge delay that the log list states, in seconds; None: the usual one.
    """

    logs: tuple[LogSpec, ...]
    start: float
    seed: int = 0
    rate: float = 10.0
    preload: int = 0
    total: int | None = None
    duplicates: float = 0.0
    interval: float = 0.2
    delay: float = 0.0
    max_entries: int = 256
    mmd: int | None = None

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: names the field, its value and what is accepted.
        """
        names = [log.name for log in self.logs]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"logs: need at least one, and a name for each of its own: {names}")
        for name in names:
            if not name.replace("-", "").isalnum() or not name.isascii():
                raise ValueError(f"logs: {name!r} is part of a URL: letters, digits and '-' only")
        if any(log.growth <= 0 for log in self.logs):
            raise ValueError("logs: growth is not above 0")
        if not 0 <= self.duplicates < 1:
            raise ValueError(f"duplicates: {self.duplicates} is not in [0, 1)")
        if self.interval <= 0:
            raise ValueError(f"interval: {self.interval} is not above 0 seconds")
        for field in ("rate", "preload", "delay"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}: {getattr(self, field)} is below 0")
        if self.mmd is not None and self.mmd < 1:
            raise ValueError(f"mmd: {self.mmd} is below 1 second")
        if self.max_entries < 1:
            raise ValueError(f"max_entries: {self.max_entries} is below 1")

    def merge_delay(self, kind: Kind) -> int:
        """The maximum merge delay that logs of that kind state, in seconds."""
        if self.mmd is not None:
            return self.mmd
        return 86_400 if kind == "rfc6962" else 60


def spread(rfc6962: int, static_ct: int, operators: int, hybrid: int = 0) -> tuple[LogSpec, ...]:
    """Name that many logs of each kind and assign them to the operators in turn.

    Hybrid logs have the two forms of leaves in turn.
    """
    kinds: list[tuple[str, Kind, DataTiles]] = [
        *((f"rfc{n}", "rfc6962", "none") for n in range(1, rfc6962 + 1)),
        *((f"static{n}", "static-ct", "none") for n in range(1, static_ct + 1)),
        *((f"hybrid{n}", "rfc6962", "same" if n % 2 else "indexed") for n in range(1, hybrid + 1)),
    ]
    return tuple(
        LogSpec(name, kind, f"Simulated Operator {n % operators + 1}", data_tiles=data_tiles)
        for n, (name, kind, data_tiles) in enumerate(kinds)
    )
