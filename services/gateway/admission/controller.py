"""The door: every request passes it before anything is done for it.

Three questions, each costing more than the one before: may this one ask at all (answered at
once), how often (Redis is asked), and for a stream, is there room (likewise).
"""

import math
from collections import Counter
from collections.abc import Sequence
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

_FULL_FOR: Final = 30  # seconds after which one who found no room may come again


class AdmissionController:
    """Lets requests in, and connections.

    Args:
        policy: says who may come in; `change` replaces it.
        rates: in Redis.
        counts: in Redis.
        beat: seconds between two signs of life to Redis.

    Attributes:
        refused: requests turned away, by why: "token", "network", "rate", "site" (as many
            connections of one client as may be), "full" (of all); and connections without a
            stream that were refused or closed: "waiting" (as many as may be), "descriptors".
        rates: to be run.
        connections: to be run.
    """

    def __init__(
        self, policy: Policy, rates: RateLimits, counts: ConnectionCounts, beat: float
    ) -> None:
        self.refused: Counter[str] = Counter()
        self.rates = RateLimiter(rates)
        self.connections = ConnectionLimiter(counts, beat, policy)
        self.set_policy(policy)

    @property
    def policy(self) -> Policy:
        """Who may come in now."""
        return self._policy

    def set_policy(self, policy: Policy) -> None:
        """Go by another policy from now on; who is connected stays."""
        self._policy = policy
        self._known = frozenset(holder.digest for holder in policy.holders or ())
        self.connections.policy = policy

    def still_allowed(self, visitor: ClientIdentity) -> bool:
        """Whether a client's token, if it needed one, is still one."""
        if self._policy.holders is None:
            return True
        return visitor.owner is not None and visitor.owner.digest in self._known

    def restricts(self, request: Request) -> bool:
        """Whether some networks alone may ask this, so that not every origin may read it."""
        policy = self._policy
        if request.path == METRICS:
            return policy.metrics is not None
        return policy.api is not None and is_api_path(request.path)

    def identify(self, request: Request, peer: str) -> tuple[ClientIdentity, Response | None]:
        """Say who is asking.

        Args:
            request: what is asked.
            peer: address that the connection comes from.

        Returns:
            Who it is; and a refusal if that one may not ask this. Then it is a visitor without a
            token, as which the request is to be counted.
        """
        policy = self._policy
        forwarded = request.headers.get("x-forwarded-for")
        address = client_address(peer, forwarded, policy.trusted_proxies)
        stranger = ClientIdentity(address_group(address))
        if is_free(request):
            return stranger, None
        if request.path == METRICS and policy.metrics is not None:
            inside = is_within(address, policy.metrics)
            return stranger, None if inside else self._elsewhere("metrics")
        barred = policy.api is not None and not is_within(address, policy.api)
        if barred and is_api_path(request.path):
            return stranger, self._elsewhere("api")
        if policy.holders is None:
            return stranger, None
        holder = self._holder(request, policy.holders)
        if isinstance(holder, Response):
            return stranger, holder
        return ClientIdentity(stranger.address_group, holder), None

    def is_blocking(self, request: Request) -> bool:
        """Whether `admit` and `enter` have anything to wait for."""
        policy = self._policy
        return not is_free(request) and (policy.rates is not None or policy.limits_connections)

    async def check_request(
        self, visitor: ClientIdentity
    ) -> Response | tuple[tuple[str, str], ...]:
        """Count a request.

        Returns:
            Headers for its answer, or a refusal.
        """
        if self._policy.rates is None:
            return ()
        rate = self._policy.rates[visitor.tier]
        decision = await self.rates.acquire(visitor.key, rate)
        headers = _rate_headers(rate, decision)
        if decision.allowed:
            return headers
        again = math.ceil(decision.retry_after)
        error = f"Rate limit exceeded; retry after {again} s"
        return self._refuse(
            "rate", ErrorCode.RATE_LIMITED, error, ("Retry-After", str(again)), *headers
        )

    async def acquire_connection(self, visitor: ClientIdentity) -> "ConnectionSlot | Response":
        """Let a connection in, or refuse it."""
        if not self._policy.limits_connections:
            return self.acquire_unlimited(visitor)
        let_in = await self.connections.acquire(visitor.address_group)
        if let_in.count:
            return ConnectionSlot(self, visitor)
        again = retry_after(_FULL_FOR)
        if let_in.full:
            error = "Server is at its connection limit"
            return self._refuse("full", ErrorCode.CONNECTION_LIMIT, error, again)
        most = self._policy.max_per_address
        error = f"Connection limit per address reached ({most} for {visitor.address_group})"
        limits = (("RateLimit-Limit", str(most)), ("RateLimit-Remaining", "0"))
        reset = ("RateLimit-Reset", again[1])
        return self._refuse("site", ErrorCode.ADDRESS_LIMIT, error, again, *limits, reset)

    def acquire_unlimited(self, visitor: ClientIdentity) -> "ConnectionSlot":
        """Let a connection in for which there is nothing to wait."""
        self.connections.acquire_unlimited(visitor.address_group)
        return ConnectionSlot(self, visitor)

    def _holder(self, request: Request, known: Sequence[TokenOwner]) -> TokenOwner | Response:
        policy = self._policy
        token = presented_token(
            request.headers, request.query, policy.header, in_query=policy.query_token
        )
        if token is None:
            error = "Authentication required: send Authorization: Bearer <token>"
            return self._refuse("token", ErrorCode.TOKEN_REQUIRED, error, _challenge())
        holder = find_owner(token, known)
        if holder is None:
            challenge = _challenge("invalid_token")
            return self._refuse("token", ErrorCode.INVALID_TOKEN, "Invalid token", challenge)
        return holder

    def _elsewhere(self, what: str) -> Response:
        error = f"Forbidden: your network is not in allow.{what}"
        return self._refuse("network", ErrorCode.FORBIDDEN, error)

    def _refuse(self, why: str, code: ErrorCode, error: str, *headers: tuple[str, str]) -> Response:
        self.refused[why] += 1
        return error_response(code, error, *headers)


class ConnectionSlot(msgspec.Struct, frozen=True, gc=False):
    """Of a connection that was let in, to be given back once.

    Attributes:
        door: where.
        visitor: whose.
    """

    door: AdmissionController
    client: ClientIdentity

    def release(self) -> None:
        """The connection has gone."""
        self.door.connections.release(self.client.address_group)


def is_free(request: Request) -> bool:
    """What everyone may ask as often as they like: load balancers, and browsers before they ask."""
    return request.path == HEALTH or request.method == "OPTIONS"


def _challenge(error: str | None = None) -> tuple[str, str]:
    """RFC 6750, section 3."""
    said = "" if error is None else f', error="{error}"'
    return "WWW-Authenticate", f'Bearer realm="certstream"{said}'


def _rate_headers(rate: Rate, decision: Decision) -> tuple[tuple[str, str], ...]:
    """draft-ietf-httpapi-ratelimit-headers-07."""
    reset = decision.reset if decision.allowed else decision.retry_after
    return (
        ("RateLimit-Limit", str(rate.limit)),
        ("RateLimit-Remaining", str(decision.remaining)),
        ("RateLimit-Reset", str(math.ceil(reset))),
    )
