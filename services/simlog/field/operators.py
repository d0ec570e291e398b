"""The public operators of autumn 2026 and their logs: how they grow, answer and refuse.

One row a log: name, operator, kind, entries a second. The profiles above the table hold the rest;
each is what other CT monitors measured. Growth is relative: `field_spec` scales it to a rate.
"""

from collections.abc import Collection

from msgspec.structs import replace

from simlog.profile import (
    AnonymousRate,
    Budget,
    ConnectionRate,
    Delay,
    Heads,
    Profile,
    SharedNames,
    SmallRequests,
)
from simlog.schedule import mean_logs
from simlog.spec import Kind, LogSpec, Spec

GOOGLE = Profile(
    page=32,
    heads=Heads(interval=Delay(2.0)),
    head=Delay(0.3),
    entries=Delay(1.0, 1.4),
    proofs=Delay(0.3),
)
SECTIGO = Profile(
    heads=Heads(interval=Delay(40.0, 5.5), age=Delay(8.0, 1.1), first=5.0),
    head=Delay(0.08),
    entries=Delay(0.25),
    proofs=Delay(0.08),
)
DIGICERT = Profile(
    heads=Heads(per_request=True),
    head=Delay(0.3),
    entries=Delay(1.7, 1.3),
    proofs=Delay(0.3),
    limits=(ConnectionRate(),),
)
CLOUDFLARE = Profile(
    heads=Heads(interval=Delay(5.0), older_every=100.0),
    head=Delay(0.06),
    entries=Delay(0.2),
    proofs=Delay(0.06),
    limits=(Budget(),),
)
CLOUDFLARE_HOURLY = Profile(
    heads=Heads(interval=Delay(2700.0, 1.4), first=40.0),
    head=CLOUDFLARE.head,
    entries=CLOUDFLARE.entries,
    proofs=CLOUDFLARE.proofs,
    limits=CLOUDFLARE.limits,
)
TRUSTASIA = Profile(
    page=32,
    heads=Heads(interval=Delay(5.0), age=Delay(10.0, 1.3)),
    head=Delay(0.4),
    entries=Delay(3.5, 1.15),
    proofs=Delay(0.5),
    limits=(SmallRequests(),),
)
TRUSTASIA_TILES = Profile(
    page=32,
    heads=TRUSTASIA.heads,
    head=TRUSTASIA.head,
    entries=TRUSTASIA.entries,
    proofs=TRUSTASIA.proofs,
    limits=TRUSTASIA.limits,
    cold=Delay(11.0, 1.8),
    has_data_tiles=True,
)
FAST_TILES = Profile(heads=Heads(interval=Delay(1.0, 1.1)), drops_partials=True)
MICROSEC = Profile(
    heads=Heads(interval=Delay(1.0, 1.1)),
    head=Delay(0.2),
    entries=Delay(6.0, 1.5),
    proofs=Delay(0.3),
    resets_above=24,
)
GEOMYS = Profile(heads=Heads(interval=Delay(1.0, 1.1)), limits=(AnonymousRate(),))
GODADDY = Profile(heads=Heads(interval=Delay(1.0, 1.1)), limits=(SharedNames(),))

LOGS: tuple[tuple[str, str, Kind, float, Profile], ...] = (
    ("argon2026h2", "Google", "rfc6962", 130, GOOGLE),
    ("argon2027h1", "Google", "rfc6962", 156, GOOGLE),
    ("xenon2026h2", "Google", "rfc6962", 120, GOOGLE),
    ("xenon2027h1", "Google", "rfc6962", 140, GOOGLE),
    ("elephant2026h2", "Sectigo", "rfc6962", 100, SECTIGO),
    ("elephant2027h1", "Sectigo", "rfc6962", 111, SECTIGO),
    ("tiger2026h2", "Sectigo", "rfc6962", 95, SECTIGO),
    ("tiger2027h1", "Sectigo", "rfc6962", 109, SECTIGO),
    ("wyvern2026h2", "DigiCert", "rfc6962", 50, DIGICERT),
    ("wyvern2027h1", "DigiCert", "rfc6962", 54, DIGICERT),
    ("sphinx2026h2", "DigiCert", "rfc6962", 48, DIGICERT),
    ("sphinx2027h1", "DigiCert", "rfc6962", 51, DIGICERT),
    ("nimbus2026", "Cloudflare", "rfc6962", 20, CLOUDFLARE),
    ("nimbus2027", "Cloudflare", "rfc6962", 170, CLOUDFLARE_HOURLY),
    ("log2026a", "TrustAsia", "rfc6962", 72, TRUSTASIA_TILES),
    ("log2026b", "TrustAsia", "rfc6962", 60, TRUSTASIA_TILES),
    ("hetu2027", "TrustAsia", "rfc6962", 80, TRUSTASIA_TILES),
    ("willow2026h2", "Let's Encrypt", "static-ct", 60, FAST_TILES),
    ("willow2027h1", "Let's Encrypt", "static-ct", 60, FAST_TILES),
    ("sycamore2026h2", "Let's Encrypt", "static-ct", 60, FAST_TILES),
    ("sycamore2027h1", "Let's Encrypt", "static-ct", 60, FAST_TILES),
    ("halloumi2026h2", "IPng Networks", "static-ct", 20, FAST_TILES),
    ("gouda2026h2", "IPng Networks", "static-ct", 15, FAST_TILES),
    ("raio2027h1", "Cloudflare", "static-ct", 60, FAST_TILES),
    ("eszigno2027h1", "Microsec", "static-ct", 120, MICROSEC),
    ("tuscolo2026h2", "Geomys", "static-ct", 40, GEOMYS),
    ("tuscolo2027h1", "Geomys", "static-ct", 30, GEOMYS),
    ("ct2026h2", "GoDaddy", "static-ct", 15, GODADDY),
)

REPEATED = 0.7
"""Share of entries whose certificate another log already holds."""


def field_spec(
    start: float,
    seed: int,
    *,
    rate: float | None = None,
    preload: int = 0,
    operators: Collection[str] = (),
) -> Spec:
    """Make the specification of a world of these logs.

    Args:
        start: the world's time zero, seconds since the epoch.
        seed: where everything random comes from.
        rate: entries a second over all logs; None: as in the table.
        preload: certificates that the logs hold at time zero.
        operators: whose logs; empty: all.

    Raises:
        ValueError: an operator is unknown.
    """
    known = {operator for _, operator, *_ in LOGS}
    if unknown := set(operators) - known:
        raise ValueError(f"operator {unknown.pop()!r} is none of {', '.join(sorted(known))}")
    logs = tuple(
        LogSpec(name, kind, operator, growth=growth, profile=profile)
        for name, operator, kind, growth, profile in LOGS
        if not operators or operator in operators
    )
    spec = Spec(logs=logs, start=start, seed=seed, preload=preload, duplicates=REPEATED)
    entries = sum(log.growth for log in logs) if rate is None else rate
    return replace(spec, rate=entries / mean_logs(spec))
