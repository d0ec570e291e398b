"""Identity of clients: addresses, tokens, and rates without Redis."""

import time
from hashlib import sha256
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbus.connection import connect
from certbus.keys import Keys
from certbus.limits.clients import Rate, RateLimits
from certconf import Auth, Network, Secret, TokenHolder
from gateway.admission.client_identity import address_group, client_address
from gateway.admission.credentials import find_owner, presented_token, token_table
from gateway.admission.rate_limiter import LocalRateLimiter
from tests.certbus.servers import RedisServer

PROXIES = (Network("10.0.0.0/8"), Network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),  # of no proxy of ours
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9", "203.0.113.9"),  # the left one is the client's word
        ("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.7.7.7", "203.0.113.9"),
        ("10.0.0.1", "10.1.1.1,10.7.7.7", "10.1.1.1"),  # a client inside
        ("10.0.0.1", "203.0.113.9, unknown", "10.0.0.1"),
        ("10.0.0.1", "unknown, 10.7.7.7", "10.7.7.7"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", ",,,", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("10.0.0.1", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("fd00::1%eth0", "203.0.113.9", "203.0.113.9"),
    ],
)
def test_the_client_is_the_nearest_untrusted_address(
    peer: str, forwarded: str | None, client: str
) -> None:
    assert client_address(peer, forwarded, PROXIES) == ip_address(client)


@given(st.text(max_size=100))
def test_nothing_that_is_forwarded_confuses(forwarded: str) -> None:
    client_address("10.0.0.1", forwarded, PROXIES)
    assert client_address("192.0.2.1", forwarded, PROXIES) == ip_address("192.0.2.1")


def test_a_site_of_ipv6_is_one_client() -> None:
    assert address_group(ip_address("192.0.2.1")) == "192.0.2.1"
    assert address_group(ip_address("2001:db8:1:2:3::4")) == "2001:db8:1:2::/64"
    assert address_group(ip_address("2001:db8:1:2:ffff::")) == "2001:db8:1:2::/64"
    assert address_group(ip_address("2001:db8:1:3::")) != "2001:db8:1:2::/64"


AUTH = Auth(
    tokens=(Secret("plain"), Secret("Grüße")),
    standard_tokens=(Secret("std"),),
    premium_tokens=(Secret("gold"),),
    holders=(
        TokenHolder("alice", Secret("s3cret"), "premium"),
        TokenHolder("bob", sha256=sha256(b"hashed").hexdigest().upper(), streams=("domains",)),
    ),
)


@pytest.mark.parametrize(
    ("token", "name", "tier"),
    [
        ("plain", "tokens[0]", "free"),
        ("Grüße", "tokens[1]", "free"),
        ("std", "standard_tokens[0]", "standard"),
        ("gold", "premium_tokens[0]", "premium"),
        ("s3cret", "alice", "premium"),
        ("hashed", "bob", "free"),
    ],
)
def test_tokens_have_names_and_tiers(token: str, name: str, tier: str) -> None:
    found = find_owner(token, token_table(AUTH))
    assert found is not None
    assert (found.name, found.tier) == (name, tier)
    assert token.encode() not in repr(found).encode()


@pytest.mark.parametrize("token", ["", "plai", "plain ", "PLAIN", "alice", "plain\0"])
def test_unknown_tokens_have_no_owner(token: str) -> None:
    assert find_owner(token, token_table(AUTH)) is None


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"authorization": "abc"}, "abc"),
        ({"x-key": "abc"}, "abc"),
        ({"x-key": "Bearer abc"}, "abc"),
        ({"x-key": "abc", "authorization": "Basic xyz"}, "abc"),
        ({"authorization": "Bearer Gr\xc3\xbc\xc3\x9fe"}, "Grüße"),
        ({"authorization": ""}, None),
        ({"cookie": "abc"}, None),
        ({}, None),
    ],
)
def test_where_tokens_may_be(headers: dict[str, str], token: str | None) -> None:
    assert presented_token(headers, {}, "x-key", in_query=False) == token


def test_a_token_in_the_url_counts_only_where_allowed() -> None:
    assert presented_token({}, {"token": "abc"}, "authorization", in_query=False) is None
    assert presented_token({}, {"token": "abc"}, "authorization", in_query=True) == "abc"


@pytest.mark.parametrize(
    "rate",
    [
        Rate(5, 0.01, 0, 60, 3600, 1000),
        Rate(3, 0.01, 4, 3600, 3600, 1000),
        Rate(100, 10, 0, 60, 7200, 6),
        Rate(0.5, 0.01, 2, 3600, 3600, 100),
        Rate(2.5, 0.01, 0.5, 3600, 3600, 3),
    ],
)
async def test_rates_without_redis_are_those_of_redis(
    shared_redis: RedisServer, prefix: str, rate: Rate
) -> None:
    own = LocalRateLimiter()
    async with connect(shared_redis.url) as client:
        limits = RateLimits(client, Keys(prefix))
        for _ in range(10):
            now = time.time()
            (theirs,) = await limits.acquire([("x", rate)])
            ours = own.acquire("x", rate, now)
            assert (ours.allowed, ours.remaining) == (theirs.allowed, theirs.remaining)
            assert ours.retry_after == pytest.approx(theirs.retry_after, abs=0.5)
            assert ours.reset == pytest.approx(theirs.reset, abs=0.5)


def test_rates_without_redis_refill_and_slide() -> None:
    own, rate = LocalRateLimiter(), Rate(2, 1, 0, 60, 10, 5)
    assert [own.acquire("x", rate, 100).allowed for _ in range(3)] == [True, True, False]
    assert own.acquire("x", rate, 100).retry_after == 1
    assert own.acquire("x", rate, 101).allowed
    assert [own.acquire("x", rate, 105).allowed for _ in range(3)] == [True, True, False]
    # Five within the window that began at 100: of those, a fifth counts at its end no more.
    refused = own.acquire("x", rate, 108)
    assert not refused.allowed
    assert refused.retry_after == pytest.approx(2 + 10 * (1 - 4 / 5))
    assert own.acquire("x", rate, 108 + refused.retry_after).allowed


def test_rates_without_redis_are_kept_for_a_limited_number() -> None:
    own, rate = LocalRateLimiter(), Rate(1, 0.001, 0, 60, 3600, 100)
    for number in range(20_000):
        own.acquire(f"address:{number}", rate, 100)
    assert own.acquire("address:0", rate, 100).allowed, "forgotten"
    assert not own.acquire("address:19999", rate, 100).allowed
