"""The admission controller: each request passes it before the router handles it.

The steps, in the order of their cost: network and token (no I/O), the request rate (Redis), and for
streams the connection limits (Redis).
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from certbus.limits.clients import ConnectionCounts, Decision, Rate, RateLimits
from certhttp.protocol import Request
from gateway.admission.client_identity import (
    ClientIdentity,
    address_group,
    client_address,
    is_within,
)
from gateway.admission.connection_limiter import ConnectionLimiter
from gateway.admission.credentials import TokenOwner, find_owner, presented_token
from gateway.admission.policy import HEALTH, METRICS, Policy, is_api_path
from gateway.admission.rate_limiter import RateLimiter
from gateway.http.errors import ErrorCode, error_response, retry_after
from gateway.http.messages import Response

_RETRY_AFTER_SECS: Final = 30  # with jitter, after a connection limit
_EXPIRED_SECS: Final = 60.0


class AdmissionController:
    """Admits requests and connections.

    Args:
        policy: the conditions; `set_policy` replaces them.
        rates: in Redis.
        counts: in Redis.
        heartbeat_secs: between two calls that keep the counts from expiring.
        now: returns the Unix time in seconds.

    Attributes:
        refused: rejected requests by reason: "token", "network", "rate", "site" (connections per
            address), "full" (connections in all); and rejected or closed connections without a
            stream: "waiting" (too many), "descriptors" (no file descriptor).
        rates: its `run` is a task of the process.
        connections: its `run` is a task of the process.
    """

    def __init__(
        self,
        policy: Policy,
        rates: RateLimits,
        counts: ConnectionCounts,
        heartbeat_secs: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self.refused: Counter[str] = Counter()
        self.rates = RateLimiter(rates)
        self.connections = ConnectionLimiter(counts, heartbeat_secs, policy)
        self.set_policy(policy)

    @property
    def policy(self) -> Policy:
        """The present conditions."""
        return self._policy

    def set_policy(self, policy: Policy) -> None:
        """Replace the policy. Established connections stay."""
        self._policy = policy
        self._known = {owner.digest: owner for owner in policy.owners or ()}
        self.connections.policy = policy

    def why_disallowed(self, client: ClientIdentity, stream: str) -> str | None:
        """Return why a client may no longer have a stream; None if it may."""
        if self._policy.owners is None:
            return None
        owner = None if client.owner is None else self._known.get(client.owner.digest)
        if client.owner is None or owner is None:
            return "token revoked"
        if owner.has_expired(self._now()):
            return "token expired"
        if owner.filter != client.owner.filter:
            return "the token has another filter"
        return None if _permits(owner, stream) else f"stream {stream} not permitted for this token"

    def secs_to_expiry(self) -> float | None:
        """Return the seconds until the next token expires; None if none will.

        For a minute after, the value is negative: a client may have connected at that moment.
        """
        times = [owner.expires for owner in self._known.values() if owner.expires is not None]
        secs = (expires - self._now() for expires in times)
        return min((left for left in secs if left > -_EXPIRED_SECS), default=None)

    def check_stream(self, client: ClientIdentity, stream: str) -> Response | None:
        """Return an error response if the token of a client does not permit a stream."""
        if client.owner is None or _permits(client.owner, stream):
            return None
        error = f"Forbidden: this token permits only {', '.join(sorted(client.owner.streams))}"
        return self._refuse("token", ErrorCode.FORBIDDEN, error)

    def restricts(self, request: Request) -> bool:
        """Whether only some networks may send a request: no CORS headers then."""
        policy = self._policy
        if request.path == METRICS:
            return policy.metrics is not None
        return policy.api is not None and is_api_path(request.path)

    def identify(self, request: Request, peer: str) -> tuple[ClientIdentity, Response | None]:
        """Identify the client of a request.

        Args:
            request: the request.
            peer: address of the connection's peer.

        Returns:
            The identity; and an error response if the client may not send the request. In this case
            the identity, which the rate limit counts, has no token owner.
        """
        policy = self._policy
        forwarded = request.headers.get("x-forwarded-for")
        address = client_address(peer, forwarded, policy.trusted_proxies)
        anonymous = ClientIdentity(address_group(address))
        if is_free(request):
            return anonymous, None
        if request.path == METRICS and policy.metrics is not None:
            inside = is_within(address, policy.metrics)
            return anonymous, None if inside else self._wrong_network("metrics")
        outside = policy.api is not None and not is_within(address, policy.api)
        if outside and is_api_path(request.path):
            return anonymous, self._wrong_network("api")
        if policy.owners is None or is_page(request):
            return anonymous, None
        owner = self._find_owner(request, policy.owners)
        if isinstance(owner, Response):
            return anonymous, owner
        return ClientIdentity(anonymous.address_group, owner), None

    def is_blocking(self, request: Request) -> bool:
        """Whether `check_request` or `acquire_connection` call Redis."""
        policy = self._policy
        return not is_free(request) and (policy.rates is not None or policy.limits_connections)

    async def check_request(self, client: ClientIdentity) -> Response | tuple[tuple[str, str], ...]:
        """Count a request.

        Returns:
            Headers for the response, or an error response.
        """
        if self._policy.rates is None:
            return ()
        rate = self._policy.rates[client.tier]
        decision = await self.rates.acquire(client.key, rate)
        headers = _rate_headers(rate, decision)
        if decision.allowed:
            return headers
        retry = math.ceil(decision.retry_after)
        error = f"Rate limit exceeded; retry after {retry} s"
        return self._refuse(
            "rate", ErrorCode.RATE_LIMITED, error, ("Retry-After", str(retry)), *headers
        )

    async def acquire_connection(self, client: ClientIdentity) -> "ConnectionSlot | Response":
        """Admit a connection, or return an error response."""
        if not self._policy.limits_connections:
            return self.acquire_unlimited(client)
        admitted = await self.connections.acquire(client.address_group)
        if admitted.count:
            return ConnectionSlot(self, client)
        retry = retry_after(_RETRY_AFTER_SECS)
        if admitted.full:
            error = "Server is at its connection limit"
            return self._refuse("full", ErrorCode.CONNECTION_LIMIT, error, retry)
        limit = self._policy.max_per_address
        error = f"Connection limit per address reached ({limit} for {client.address_group})"
        limits = (("RateLimit-Limit", str(limit)), ("RateLimit-Remaining", "0"))
        reset = ("RateLimit-Reset", retry[1])
        return self._refuse("site", ErrorCode.ADDRESS_LIMIT, error, retry, *limits, reset)

    def acquire_unlimited(self, client: ClientIdentity) -> "ConnectionSlot":
        """Admit a connection while there are no limits."""
        self.connections.acquire_unlimited(client.address_group)
        return ConnectionSlot(self, client)

    def _find_owner(self, request: Request, known: Sequence[TokenOwner]) -> TokenOwner | Response:
        policy = self._policy
        token = presented_token(
            request.headers, request.query, policy.header, in_query=policy.query_token
        )
        if token is None:
            error = "Authentication required: send Authorization: Bearer <token>"
            return self._refuse("token", ErrorCode.TOKEN_REQUIRED, error, _challenge())
        owner = find_owner(token, known)
        if owner is None:
            challenge = _challenge("invalid_token")
            return self._refuse("token", ErrorCode.INVALID_TOKEN, "Invalid token", challenge)
        if owner.has_expired(self._now()):
            challenge = _challenge("invalid_token")
            return self._refuse("token", ErrorCode.INVALID_TOKEN, "Token expired", challenge)
        return owner

    def _wrong_network(self, what: str) -> Response:
        error = f"Forbidden: your network is not in allow.{what}"
        return self._refuse("network", ErrorCode.FORBIDDEN, error)

    def _refuse(self, why: str, code: ErrorCode, error: str, *headers: tuple[str, str]) -> Response:
        self.refused[why] += 1
        return error_response(code, error, *headers)


class ConnectionSlot(msgspec.Struct, frozen=True, gc=False):
    """The place of an admitted connection, to be released once.

    Attributes:
        admission: the controller that admitted it.
        client: the identity of the client.
    """

    admission: AdmissionController
    client: ClientIdentity

    def release(self) -> None:
        """Remove the connection from the counts."""
        self.admission.connections.release(self.client.address_group)


def is_free(request: Request) -> bool:
    """Whether a request is exempt from limits: those of load balancers, and CORS preflights."""
    return request.path == HEALTH or request.method == "OPTIONS"


def _permits(owner: TokenOwner, stream: str) -> bool:
    return not owner.streams or stream in owner.streams


def is_page(request: Request) -> bool:
    """Whether a browser requests the page at `/`, where a person can enter a token."""
    at_root = request.path in ("", "/") and not request.websocket
    return at_root and "text/html" in request.headers.get("accept", "")


def _challenge(error: str | None = None) -> tuple[str, str]:
    """Return the header WWW-Authenticate (RFC 6750 section 3)."""
    parameter = "" if error is None else f', error="{error}"'
    return "WWW-Authenticate", f'Bearer realm="certstream"{parameter}'


def _rate_headers(rate: Rate, decision: Decision) -> tuple[tuple[str, str], ...]:
    """Return the headers of draft-ietf-httpapi-ratelimit-headers-07."""
    reset = decision.reset if decision.allowed else decision.retry_after
    return (
        ("RateLimit-Limit", str(rate.limit)),
        ("RateLimit-Remaining", str(decision.remaining)),
        ("RateLimit-Reset", str(math.ceil(reset))),
    )
