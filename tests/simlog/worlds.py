"""Worlds for the tests: small, and complete at once."""

from simlog.spec import Spec, spread
from simlog.world import World

START = 1_795_300_000.0


def small(**changes: object) -> Spec:
    """Four logs, two of each kind, 800 certificates before time zero."""
    settings: dict[str, object] = {
        "logs": spread(rfc6962=2, static_ct=2, operators=3),
        "start": START,
        "seed": 7,
        "rate": 0.0,
        "preload": 800,
        "duplicates": 0.3,
        **changes,
    }
    return Spec(**settings)  # type: ignore[arg-type]


def grown(spec: Spec, now: float = START, limit: int = 10_000) -> World:
    """A world at the time `now`."""
    world = World(spec)
    while world.advance(now, limit):
        pass
    return world
