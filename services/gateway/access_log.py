"""The access log: one line at the end of each request or stream (`access_log`).

A line contains no header, no query and no cursor that is not valid, because these may hold a token.
"""

import time
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import structlog

from certhttp.protocol import Request
from gateway.admission.client_identity import Address, ClientIdentity

if TYPE_CHECKING:
    from gateway.http.messages import FilterRequest, Subscription

_MAX_PATH_CHARS: Final = 200
_HASH_CHARS: Final = 16

log = structlog.get_logger(__name__)


class AccessRecord:
    """A request from its last byte to the end of its response or stream.

    Args:
        connection: number of the connection.
        address: of the client.
        request: None if it was malformed or incomplete.

    Attributes:
        subscription: to the stream that the request began.
    """

    __slots__ = (
        "_address",
        "_connection",
        "_method",
        "_path",
        "_started",
        "_token",
        "subscription",
    )

    def __init__(self, connection: int, address: Address, request: Request | None = None) -> None:
        self._connection = connection
        self._address = address
        self._started = time.monotonic()
        self._method = request.method if request else None
        self._path = request.path[:_MAX_PATH_CHARS] if request else None
        self._token: str | None = None
        self.subscription: Subscription | None = None

    def identify(self, client: ClientIdentity) -> None:
        """Add the owner of the token."""
        self._token = client.owner.name if client.owner else None

    def end(
        self,
        status: int | None,
        sent_bytes: int = 0,
        messages: int | None = None,
        close: tuple[int, str] | tuple[None, None] = (None, None),
    ) -> None:
        """Write the line.

        Args:
            status: HTTP status; None if the client left before the response.
            sent_bytes: bytes written to the connection for this request, before TLS.
            messages: sent to a stream.
            close: code and reason of the end of a stream.
        """
        subscription = self.subscription
        cursor = subscription.cursor if subscription else None
        log.info(
            "request ended",
            connection=self._connection,
            address=str(self._address),
            token=self._token,
            method=self._method,
            path=self._path,
            status=status,
            stream=subscription.stream if subscription else None,
            filter=_label(subscription.requested) if subscription else None,
            cursor=str(cursor) if cursor else None,
            duration_secs=round(time.monotonic() - self._started, 3),
            messages=messages,
            sent_bytes=sent_bytes,
            code=close[0],
            reason=close[1],
        )


def _label(requested: "FilterRequest") -> str | None:
    """Return the named filters, and a hash of the normal form of the client's own one."""
    labels = list(requested.names)
    if requested.own is not None:
        groups = sorted("\n".join(sorted(group)) for group in requested.own.key)
        labels.append(sha256("\n\n".join(groups).encode()).hexdigest()[:_HASH_CHARS])
    return ",".join(labels) or None
