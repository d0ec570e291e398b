"""Who a token belongs to.

How long a look-up takes depends neither on what is offered nor on which token it is: SHA-256
digests are compared, with every token's, in constant time.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

import msgspec

from certconf import Auth


class TokenOwner(msgspec.Struct, frozen=True):
    """Who has a token.

    Attributes:
        digest: SHA-256 of the token.
        name: for people, and for Redis.
        tier: "free", "standard" or "premium".
    """

    digest: bytes
    name: str
    tier: str


def token_table(auth: Auth) -> tuple[TokenOwner, ...]:
    """Everyone who has a token."""
    return tuple(
        TokenOwner(sha256(token.encode()).digest(), name, tier) for name, token, tier in _all(auth)
    )


def _all(auth: Auth) -> Iterator[tuple[str, str, str]]:
    for holder in auth.holders:
        yield holder.name, holder.token.reveal(), holder.tier
    for tier, key, tokens in (
        ("free", "tokens", auth.tokens),
        ("standard", "standard_tokens", auth.standard_tokens),
        ("premium", "premium_tokens", auth.premium_tokens),
    ):
        for number, token in enumerate(tokens):
            yield f"{key}[{number}]", token.reveal(), tier


def find_owner(token: str, known: Sequence[TokenOwner]) -> TokenOwner | None:
    """Whose token it is; None if nobody's."""
    digest = sha256(token.encode()).digest()
    found = None
    for holder in known:
        if hmac.compare_digest(holder.digest, digest):
            found = holder
    return found


def presented_token(
    headers: Mapping[str, str], query: Mapping[str, str], header: str, *, in_query: bool
) -> str | None:
    """The token that comes with a request.

    Args:
        headers: by name in lower case; their values decoded as Latin-1 (RFC 9110 section 5.5).
        query: its fields.
        header: one to read beside Authorization, in lower case.
        in_query: whether `?token=` is one.
    """
    for name in (header, "authorization"):
        value = headers.get(name, "").strip().encode("latin-1").decode("utf-8", "replace")
        scheme, space, credentials = value.partition(" ")
        if space and scheme.lower() == "bearer":
            return credentials.strip()
        if value:
            return value
    return query.get("token") if in_query else None
