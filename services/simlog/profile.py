"""How one log behaves, as data; `simlog.field` acts on it. Times in seconds, rates per second."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]

RetryAfter = Literal["seconds", "date"]
"""How a 429 states its Retry-After (RFC 9110 section 10.2.3)."""


class Delay(msgspec.Struct, frozen=True):
    """A random time, drawn log-uniformly from [median / spread, median * spread].

    Attributes:
        median: seconds.
        spread: factor between the median and either end, at least 1.
    """

    median: NotNegative = 0.02
    spread: Annotated[float, Meta(ge=1)] = 1.5

    def at(self, fraction: float) -> float:
        """Return the delay for a uniform fraction in [0, 1)."""
        return float(self.median * self.spread ** (2 * fraction - 1))


class Budget(msgspec.Struct, frozen=True, tag_field="limit", tag="budget"):
    """All logs of the operator with this limit share `requests`, then answer 429 for `pause`."""

    requests: Annotated[int, Meta(ge=1)] = 100
    pause: Positive = 60.0
    retry_after: RetryAfter | None = "seconds"


class ConnectionRate(msgspec.Struct, frozen=True, tag_field="limit", tag="connection"):
    """A token bucket per TCP connection: `rate` requests a second, `burst` at once."""

    rate: Positive = 2.5
    burst: Annotated[int, Meta(ge=1)] = 5
    retry_after: RetryAfter | None = None


class AnonymousRate(msgspec.Struct, frozen=True, tag_field="limit", tag="anonymous"):
    """Clients whose User-Agent holds neither mail address nor URL share what others leave.

    Attributes:
        share: of their requests that are refused, because other anonymous clients used the rate.
        pause: seconds that Retry-After states.
    """

    share: Annotated[float, Meta(ge=0, le=1)] = 0.52
    pause: Positive = 1.0
    retry_after: RetryAfter | None = "date"


class SharedNames(msgspec.Struct, frozen=True, tag_field="limit", tag="names"):
    """Clients whose User-Agent begins with the name of a common HTTP library are refused."""

    names: tuple[str, ...] = ("python", "go-http-client", "curl", "java", "okhttp", "mozilla")
    pause: Positive = 60.0
    retry_after: RetryAfter | None = None


class SmallRequests(msgspec.Struct, frozen=True, tag_field="limit", tag="small"):
    """A token bucket for get-entries requests of fewer than `below` entries."""

    below: Annotated[int, Meta(ge=1)] = 16
    rate: Positive = 0.5
    burst: Annotated[int, Meta(ge=1)] = 10
    pause: Positive = 5.0
    retry_after: RetryAfter | None = None


class Startup(msgspec.Struct, frozen=True, tag_field="limit", tag="startup"):
    """Everything is refused during the first seconds of the world."""

    seconds: Positive = 10.0
    retry_after: RetryAfter | None = None


Limit = Budget | ConnectionRate | AnonymousRate | SharedNames | SmallRequests | Startup


class Heads(msgspec.Struct, frozen=True):
    """When tree heads are signed and shown.

    Attributes:
        interval: between two signatures.
        age: from the signature to the first answer that shows it.
        first: the first head after time zero is signed by then; None: within one interval.
        per_request: a head is signed anew, over the newest tree, for each request.
        older_every: about how often a replica answers with an older head; None: never.
        older_by: how much older that head is at least.
    """

    interval: Delay = Delay(1.0, 1.1)
    age: Delay = Delay(0.0)
    first: NotNegative | None = None
    per_request: bool = False
    older_every: Positive | None = None
    older_by: Positive = 20.0


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """How one log behaves.

    Attributes:
        page: the most entries of one get-entries answer.
        is_aligned: an answer never crosses a multiple of `page`.
        heads: when tree heads come.
        head, entries, proofs, issuers: how long such an answer takes.
        cold: how long the first answer of a tile takes; None: as any other.
        limits: what is refused with 429, in the order in which the log tests them.
        has_data_tiles: an RFC 6962 log that also serves full data tiles, but no checkpoint.
        drops_partials: partial tiles are 404 once the full tile exists.
        resets_above: a tile answer breaks off when more than this many are under way.
    """

    page: Annotated[int, Meta(ge=1)] = 256
    is_aligned: bool = True
    heads: Heads = Heads()
    head: Delay = Delay(0.02)
    entries: Delay = Delay(0.05)
    proofs: Delay = Delay(0.03)
    issuers: Delay = Delay(0.03)
    cold: Delay | None = None
    limits: tuple[Limit, ...] = ()
    has_data_tiles: bool = False
    drops_partials: bool = False
    resets_above: Annotated[int, Meta(ge=1)] | None = None
