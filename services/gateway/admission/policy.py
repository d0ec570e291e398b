"""The settings, as admission needs them. One value, so that all of it changes in one moment."""

from collections.abc import Mapping
from typing import Final

import msgspec

from certbus.limits.clients import Rate
from certconf import Config, Network, RateLimit, Tier
from gateway.admission.credentials import TokenOwner, token_table

HEALTH: Final = "/health"
METRICS: Final = "/metrics"


class Policy(msgspec.Struct, frozen=True):
    """Who may come in.

    Attributes:
        holders: who has a token; None lets everyone in.
        header: where a token may be beside Authorization, in lower case.
        query_token: whether `?token=` is one.
        trusted_proxies: whose X-Forwarded-For is believed.
        metrics: networks from where metrics may be asked, without a token; None as the rest.
        api: networks from where the API may be asked; None from everywhere.
        rates: by tier; None for no limits.
        limits_connections: whether the next two hold.
        most: connections to all gateways.
        most_of_one: likewise, of one client; None for any number.
    """

    holders: tuple[TokenOwner, ...] | None = None
    header: str = "authorization"
    query_token: bool = False
    trusted_proxies: tuple[Network, ...] = ()
    metrics: tuple[Network, ...] | None = None
    api: tuple[Network, ...] | None = None
    rates: Mapping[str, Rate] | None = None
    limits_connections: bool = False
    max_connections: int | None = None
    max_per_address: int | None = None


def is_public_path(path: str, policy: Policy) -> bool:
    """Whether everyone may ask for it, or everyone in a network."""
    if policy.holders is None or path == HEALTH:
        return True
    return path == METRICS and policy.metrics is not None


def is_api_path(path: str) -> bool:
    """Whether `Policy.api` says from where it may be asked."""
    return path.startswith("/api/") or path == "/latest.json"


def policy_of(config: Config) -> Policy:
    """Pick what concerns admission."""
    auth, limit, rate = config.auth, config.connection_limit, config.rate_limit
    return Policy(
        holders=token_table(auth) if auth.enabled else None,
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
    """A rate for each tier: what a tier does not set is as in the free one."""
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
