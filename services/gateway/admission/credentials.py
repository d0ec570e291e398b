"""Tokens and their owners.

The time of a look-up depends neither on the presented token nor on its owner: the SHA-256 digest is
compared with that of every token in constant time.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

import msgspec

from certconf import Auth, Secret


class TokenOwner(msgspec.Struct, frozen=True):
    """The owner of a token.

    Attributes:
        digest: SHA-256 of the token.
        name: for logs and Redis.
        tier: "free", "standard" or "premium".
        expires: Unix time in seconds from which the token is invalid; None: never.
        streams: to which the token may subscribe; empty: every stream.
        filter: name of the filter that holds for everything that the token receives.
    """

    digest: bytes
    name: str
    tier: str
    expires: float | None = None
    streams: frozenset[str] = frozenset()
    filter: str | None = None

    def has_expired(self, now: float) -> bool:
        """Whether the token is invalid at a Unix time in seconds."""
        return self.expires is not None and self.expires <= now


def token_table(auth: Auth) -> tuple[TokenOwner, ...]:
    """Return all configured token owners."""
    return tuple(_all(auth))


def _all(auth: Auth) -> Iterator[TokenOwner]:
    for holder in auth.holders:
        digest = _digest(holder.token) if holder.token else bytes.fromhex(holder.sha256 or "")
        expires = None if holder.expires is None else holder.expires.timestamp()
        streams = frozenset(holder.streams)
        yield TokenOwner(digest, holder.name, holder.tier, expires, streams, holder.filter)
    for tier, key, tokens in (
        ("free", "tokens", auth.tokens),
        ("standard", "standard_tokens", auth.standard_tokens),
        ("premium", "premium_tokens", auth.premium_tokens),
    ):
        for number, token in enumerate(tokens):
            yield TokenOwner(_digest(token), f"{key}[{number}]", tier)


def _digest(token: Secret) -> bytes:
    return sha256(token.reveal().encode()).digest()


def find_owner(token: str, known: Sequence[TokenOwner]) -> TokenOwner | None:
    """Return the owner of a token; None for an unknown token."""
    digest = sha256(token.encode()).digest()
    found = None
    for owner in known:
        if hmac.compare_digest(owner.digest, digest):
            found = owner
    return found


def presented_token(
    headers: Mapping[str, str], query: Mapping[str, str], header: str, *, in_query: bool
) -> str | None:
    """Return the token of a request, if it has one.

    Args:
        headers: by name in lower case; values decoded as Latin-1 (RFC 9110 section 5.5).
        query: first value of each field.
        header: name of a header to read before Authorization, in lower case.
        in_query: whether the query field `token` is accepted.
    """
    for name in (header, "authorization"):
        value = headers.get(name, "").strip().encode("latin-1").decode("utf-8", "replace")
        scheme, space, credentials = value.partition(" ")
        if space and scheme.lower() == "bearer":
            return credentials.strip()
        if value:
            return value
    return query.get("token") if in_query else None
