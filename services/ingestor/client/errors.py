"""What can go wrong between a log and us. Every error names the log, the URL and the problem.

LogError
Unreachable   no answer: DNS, connect, TLS, time-out, connection cut
LeftAlone     not asked: it is to be left alone for now
Refused       an answer with a status that is not 200, perhaps with Retry-After
  TileGone    neither a partial tile nor the full one that takes its place is there
BadAnswer     an answer that is not what the specification says
TooLarge    an answer beyond the size we accept; a smaller window may fit
Lie           an answer that contradicts what the log signed, or shows that it was not the log's
Unproven      answers that may be true, but nothing shows it
"""

from typing import Literal

from ctparse.tree_head import TreeHead

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
    """Base of all: one request to a log did not give what was asked for.

    Attributes:
        log: the log's name, as an operator knows it.
        url: what was asked.
        problem: one line, for a person.
    """

    def __init__(self, log: str, url: str, problem: str) -> None:
        super().__init__(f"{log}: {url}: {problem}")
        self.log = log
        self.url = url
        self.problem = problem

    @property
    def summary(self) -> str:
        """URL and problem, where the log is clear."""
        return f"{self.url}: {self.problem}"


class ConnectionFailed(LogError):
    """Nothing came back, or not all of it."""


class Throttled(LogError):
    """It was not asked, because it is to be left alone for now."""


class UnexpectedStatus(LogError):
    """The log answered with another status than 200.

    Attributes:
        status: the HTTP status code.
        retry_after: seconds that the log asks us to wait (RFC 9110 section 10.2.3), if it does.
    """

    def __init__(
        self, log: str, url: str, problem: str, status: int, retry_after: float | None
    ) -> None:
        super().__init__(log, url, problem)
        self.status = status
        self.retry_after = retry_after


class TileGone(UnexpectedStatus):
    """A log has neither a partial tile that it had, nor the full tile instead."""


class InvalidResponse(LogError):
    """The log answered 200 with something that is not an answer."""


class ResponseTooLarge(InvalidResponse):
    """The answer is larger than we accept, on the wire or once decompressed."""


class IntegrityViolation(InvalidResponse):
    """What the log shows is not what it is, whoever's fault that is.

    Attributes:
        kind: which lie.
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
        certain: whether asking again would be no use, as far as anybody can tell.
    """

    def __init__(
        self, log: str, url: str, problem: str, heads: tuple[TreeHead, ...] = (), *, certain: bool
    ) -> None:
        super().__init__(log, url, problem)
        self.heads = heads
        self.certain = certain
