"""The settings of admission in one value: a reload replaces all of them at once."""

from collections.abc import Mapping
from typing import Final

import msgspec

from certbus.limits.clients import Rate
from certconf import Config, Network, RateLimit, Tier
from gateway.admission.credentials import TokenOwner, token_table

HEALTH: Final = "/health"
METRICS: Final = "/metrics"


class Policy(msgspec.Struct, frozen=True):
    """The conditions for requests and connections.

    Attributes:
        owners: token owners; None if requests need no token.
        header: name of the header for tokens beside Authorization, in lower case.
        query_token: whether the query field `token` is accepted.
        trusted_proxies: networks whose X-Forwarded-For states the client address.
        metrics: networks that may request /metrics, without a token; None for the general rule.
        api: networks that may request the API; None for all.
        rates: by tier; None for no limits.
        limits_connections: whether the next two limits hold.
        max_connections: over all gateways; None for no limit.
        max_per_address: over all gateways, per address group; None for no limit.
    """

    owners: tuple[TokenOwner, ...] | None = None
    header: str = "authorization"
    query_token: bool = False
    trusted_proxies: tuple[Network, ...] = ()
    metrics: tuple[Network, ...] | None = None
    api: tuple[Network, ...] | None = None
    rates: Mapping[str, Rate] | None = None
    limits_connections: bool = False
    max_connections: int | None = None
    max_per_address: int | None = None


def restricts_streams(policy: Policy) -> bool:
    """Whether some token may not subscribe to every stream."""
    return any(owner.streams for owner in policy.owners or ())


def is_public_path(path: str, policy: Policy) -> bool:
    """Whether requests need no token, from everywhere or from some networks."""
    if policy.owners is None or path == HEALTH:
        return True
    return path == METRICS and policy.metrics is not None


def is_api_path(path: str) -> bool:
    """Whether `Policy.api` restricts the networks that may request a path."""
    return path.startswith("/api/") or path == "/latest.json"


def policy_of(config: Config) -> Policy:
    """Return the settings of admission."""
    auth, limit, rate = config.auth, config.connection_limit, config.rate_limit
    return Policy(
        owners=token_table(auth) if auth.enabled else None,
        header=auth.header_name.lower(),
        query_token=auth.query_token,
        trusted_proxies=config.trusted_proxies,
        metrics=config.allow.metrics,
        api=config.allow.api,
        rates=_rates(rate) if rate.enabled else None,
        limits_connections=limit.enabled,
        max_connections=limit.max_connections,
        max_per_address=limit.per_ip_limit,
    )


def _rates(limit: RateLimit) -> Mapping[str, Rate]:
    """Return the rate of each tier; a tier inherits from the free one what it does not set."""
    tiers = {"free": Tier(), "standard": limit.standard, "premium": limit.premium}
    return {
        name: Rate(
            capacity=tier.max_tokens or limit.max_tokens,
            refill=tier.refill_rate or limit.refill_rate,
            burst=tier.burst or limit.burst,
            burst_window=limit.burst_window_seconds,
            window=limit.window_seconds,
            window_requests=limit.window_max_requests,
        )
        for name, tier in tiers.items()
    }
