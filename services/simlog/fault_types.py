"""What can be wrong with a log, as data: when, how often, with which requests, and what.

An HTTP fault makes a log hard to read; misbehaviour makes it untrue. Each is one Struct, so that
a world's specification holds them, the control endpoint takes them as JSON and the command line
as `LOG:KIND:name=value,...`. `faults.http_faults` makes answers slow, refused or broken,
`faults.misbehaviour` makes a log contradict what it signed, and `World` appends malformed entries.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

Part = Literal["head", "entries", "proofs", "issuers"]
"""get-sth or checkpoint; get-entries or data tiles; proofs or hash tiles; issuers."""

Seconds = Annotated[float, Meta(ge=0)]
Number = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]


def _kind(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Fault(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag=_kind,
):
    """The fields of every fault.

    Attributes:
        since, until: in force during these seconds after the world's time zero, or after it was
            switched on by the control endpoint.
        since_size, until_size: in force while the log holds this many entries (until: fewer).
        share: of the requests that it hits, by the seed.
        only: the part of the log that it hits; None: any that it can.
    """

    since: Seconds = 0.0
    until: Seconds | None = None
    since_size: Number = 0
    until_size: Number | None = None
    share: Share = 1.0
    only: Part | None = None

    def in_force(self, elapsed: float, size: int) -> bool:
        """Whether it is in force `elapsed` seconds after zero, in a log of `size` entries."""
        elapsed = max(0.0, elapsed)
        return (
            self.since <= elapsed
            and self.since_size <= size
            and (self.until is None or elapsed < self.until)
            and (self.until_size is None or size < self.until_size)
        )


class Latency(Fault, frozen=True):
    """Answers come late, by `seconds` and up to `jitter` seconds more."""

    seconds: Seconds = 0.5
    jitter: Seconds = 0.0


class Status(Fault, frozen=True):
    """Answers are HTTP `code` with Retry-After. With `index`: those that contain that entry."""

    code: Annotated[int, Meta(ge=400, le=599)] = 503
    retry_after: Number | None = None
    index: Number | None = None


class Reset(Fault, frozen=True):
    """The connection is reset `after` bytes of the body, by default in its middle."""

    after: Number | None = None


class Truncated(Fault, frozen=True):
    """Bodies end in their middle, with a matching Content-Length."""


class Oversized(Fault, frozen=True):
    """Bodies continue after their end: `size` spaces, or endless ones. `index`: as Status."""

    size: Number | None = None
    index: Number | None = None


class Bomb(Fault, frozen=True):
    """Bodies are a thousand times larger once gunzipped: `size` bytes."""

    size: Positive = 1 << 28


class WrongContent(Fault, frozen=True):
    """Answers are the HTML page of a load balancer, with status 200."""


class Fewer(Fault, frozen=True):
    """get-entries returns at most `entries`, for any range."""

    entries: Positive = 1


class NoPartials(Fault, frozen=True):
    """Partial tiles answer 404 once the full tile exists."""


class Stale(Fault, frozen=True):
    """A replica answers that is `entries` and `seconds` behind: an older tree, correctly signed."""

    share: Share = 0.5
    entries: Positive = 10
    seconds: Number = 60


class Malformed(Fault, frozen=True):
    """Of the entries appended while it is in force, `share` hold bytes that are no certificate."""

    share: Share = 0.01


class OfEntries(Fault, frozen=True):
    """Misbehaviour about single entries: that at `index`, or one in `every`."""

    index: Number | None = None
    every: Positive = 100

    def covers(self, index: int) -> bool:
        """Whether the entry at `index` is affected."""
        if self.index is not None:
            return index == self.index
        return index % self.every == self.every - 1


class SwappedLeaf(OfEntries, frozen=True):
    """Entries are shown with another certificate than the one that the tree commits to."""


class ForgedPrecert(OfEntries, frozen=True):
    """Precertificate entries show another precertificate with the leaf that is in the tree."""


class Garbled(OfEntries, frozen=True):
    """Entries are shown as bytes that have no structure; the tree has the right ones."""


class WrongLeafIndex(OfEntries, frozen=True):
    """Entries of data tiles state a leaf index that is one too high."""


class WrongRoot(Fault, frozen=True):
    """Tree heads are signed over a root that no tree has."""


class BadSignature(Fault, frozen=True):
    """Tree heads are signed with a key that is not the log's."""


class Fork(Fault, frozen=True):
    """Another tree, with its own tree heads, proofs and entry `at`, that grows like the first."""

    at: Number = 0


class Rewind(Fault, frozen=True):
    """The log stays `entries` shorter than at the start of the fault; its tree heads are new."""

    entries: Positive = 10


class WrongProofs(Fault, frozen=True):
    """Proofs and hash tiles hold a hash that is wrong."""


class WrongIssuer(Fault, frozen=True):
    """Issuers are other bytes than those with their fingerprint."""


HTTPFault = (
    Latency
    | Status
    | Reset
    | Truncated
    | Oversized
    | Bomb
    | WrongContent
    | Fewer
    | NoPartials
    | Stale
)
Misbehaviour = (
    SwappedLeaf
    | ForgedPrecert
    | Garbled
    | WrongLeafIndex
    | WrongRoot
    | BadSignature
    | Fork
    | Rewind
    | WrongProofs
    | WrongIssuer
)
ServedFault = HTTPFault | Misbehaviour
"""What is wrong with answers: the control endpoint can change it while the log runs."""

AnyFault = ServedFault | Malformed
"""What a specification can contain. `Malformed` changes the tree, which a restart must repeat."""

HTTP_FAULTS: tuple[AnyFault, ...] = (
    Latency(seconds=0.2, jitter=0.3),
    Status(code=429, retry_after=1),
    Status(code=503, retry_after=1),
    Status(code=500, share=0.5),
    Reset(share=0.5),
    Truncated(share=0.5),
    Oversized(share=0.5),
    Bomb(share=0.5),
    WrongContent(share=0.5),
    Fewer(entries=7),
    NoPartials(),
    Stale(),
    Status(code=404, only="proofs"),
)
"""One of each fault that a log recovers from."""


def in_turn(position: int, seconds: float) -> tuple[AnyFault, ...]:
    """Schedule each of `HTTP_FAULTS` for one log of many, so that a third of the logs has one.

    Args:
        position: of the log among the others.
        seconds: how long each lasts.
    """
    return tuple(
        msgspec.structs.replace(fault, since=turn * seconds, until=(turn + 1) * seconds)
        for turn, fault in enumerate(HTTP_FAULTS)
        if (position + turn) % 3 == 0
    )


def parse(text: str) -> tuple[str, AnyFault]:
    """Read `LOG:KIND` or `LOG:KIND:name=value,...`: which logs (a pattern), and what is wrong.

    Raises:
        ValueError: names the part that is invalid.
    """
    log, kind, arguments = [*text.split(":", 2), "", ""][:3]
    pairs = [pair.partition("=") for pair in arguments.split(",") if pair]
    fields = {"kind": kind, **{name: value for name, _, value in pairs}}
    try:
        return log, msgspec.convert(fields, AnyFault, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"fault {text!r}: {error}; expected LOG:KIND:name=value,...") from error


def described() -> Iterable[str]:
    """Yield the usage of each kind with its defaults, and what it does."""
    common = {field.name for field in msgspec.structs.fields(Fault)}
    kinds: Sequence[type[Fault]] = get_args(AnyFault)
    for kind in kinds:
        own = [
            f"{field.name}={'' if field.default is None else field.default}"
            for field in msgspec.structs.fields(kind)
            if field.name not in common
        ]
        written = ":".join([_kind(kind.__name__), *[",".join(own)] * bool(own)])
        yield f"{written}\n    {kind.__doc__}"
