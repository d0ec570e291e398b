"""The errors of requests to a log. Every error has the log, the URL and the problem.

LogError
ConnectionFailed     no answer: DNS, connect, TLS, time-out, connection cut
Throttled            not requested: the log's pause has not ended
UnexpectedStatus     a status other than 200, perhaps with Retry-After
  TileGone           neither a partial tile nor the full one that replaces it exists
InvalidResponse      an answer that violates the specification
  ResponseTooLarge   an answer above the size limit; a smaller window may fit
IntegrityViolation   an answer that contradicts what the log signed
ProofUnavailable     answers that may be correct, without a proof
"""

from typing import Final, Literal

from ctparse.tree_head import TreeHead

TOO_MANY_REQUESTS: Final = 429
"""RFC 6585 section 4."""

ViolationKind = Literal[
    "bad_signature",
    "split",
    "rewound",
    "root_mismatch",
    "wrong_leaf",
    "wrong_proof",
    "wrong_issuer",
    "forged_precert",
]


class LogError(Exception):
    """A request to a log failed; the base of all errors here.

    Attributes:
        log: the log's name.
        url: the URL requested.
        problem: one line, for an operator.
    """

    def __init__(self, log: str, url: str, problem: str) -> None:
        super().__init__(f"{log}: {url}: {problem}")
        self.log = log
        self.url = url
        self.problem = problem

    @property
    def is_rate_limit(self) -> bool:
        """Whether the log only limits the rate of requests: it is healthy."""
        return False

    @property
    def summary(self) -> str:
        """URL and problem, without the log."""
        return f"{self.url}: {self.problem}"


class ConnectionFailed(LogError):
    """No answer, or not all of it."""


class Throttled(LogError):
    """The log was not requested: its pause has not ended."""

    @property
    def is_rate_limit(self) -> bool:
        """True."""
        return True


class UnexpectedStatus(LogError):
    """The log answered with another status than 200.

    Attributes:
        status: the HTTP status code.
        retry_after: its Retry-After in seconds (RFC 9110 section 10.2.3), if any.
    """

    def __init__(
        self, log: str, url: str, problem: str, status: int, retry_after: float | None
    ) -> None:
        super().__init__(log, url, problem)
        self.status = status
        self.retry_after = retry_after

    @property
    def is_rate_limit(self) -> bool:
        """Whether the status is 429."""
        return self.status == TOO_MANY_REQUESTS


class TileGone(UnexpectedStatus):
    """A log has neither a partial tile that it had, nor the full tile instead."""


class InvalidResponse(LogError):
    """The log answered 200 with something that is not an answer."""


class ResponseTooLarge(InvalidResponse):
    """The answer is larger than we accept, on the wire or once decompressed."""


class IntegrityViolation(InvalidResponse):
    """What the log returns contradicts what it signed.

    Attributes:
        kind: of violation.
        what: what it was, without the kind.
        heads: the tree heads that show it.
    """

    def __init__(
        self,
        log: str,
        url: str,
        kind: ViolationKind,
        problem: str,
        heads: tuple[TreeHead, ...] = (),
    ) -> None:
        super().__init__(log, url, f"{kind}: {problem}")
        self.kind = kind
        self.what = problem
        self.heads = heads


class ProofUnavailable(LogError):
    """Entries that would be published if they were proven.

    Attributes:
        heads: the tree heads that they are not proven to lead to.
        certain: whether another request is useless, as far as known.
    """

    def __init__(
        self, log: str, url: str, problem: str, heads: tuple[TreeHead, ...] = (), *, certain: bool
    ) -> None:
        super().__init__(log, url, problem)
        self.heads = heads
        self.certain = certain
