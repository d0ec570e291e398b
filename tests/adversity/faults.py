"""Faults, and the plan of one run: everything that a seed decides. Pure.

A plan names each fault with its time and its values, so a failing seed is replayed by its number.
What the processes make of the faults depends on the machine's scheduling, so a replay has the
same faults at the same times, and not always the same end.
"""

import random
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from tests.certbus.proxy import How, When

INGESTORS = ("ingestor-1", "ingestor-2")
GATEWAYS = ("gateway-1", "gateway-2")
LOGS = "simlog"
REDIS = "redis"
PROCESSES = (*INGESTORS, *GATEWAYS, LOGS)

Server = Literal["redis6", "redis7"]
"""Names of `tests.certbus.servers.executables`."""

PUBLISH = b'"fence":'
"""What only the requests that publish a batch contain."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Something that goes wrong.

    Attributes:
        at: when it begins, in seconds since the first fault could.
    """

    at: float

    def __str__(self) -> str:
        values = ", ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in msgspec.structs.asdict(self).items()
            if name != "at"
        )
        return f"{type(self).__name__}({values})"


class Kill(Fault, frozen=True, kw_only=True):
    """SIGKILL, and a new start after `down` seconds."""

    processes: tuple[str, ...]
    down: float


class Restart(Fault, frozen=True, kw_only=True):
    """SIGTERM, and a new start when the process has ended, as an upgrade does."""

    process: str


class Stop(Fault, frozen=True, kw_only=True):
    """SIGSTOP, and SIGCONT after `seconds`."""

    process: str
    seconds: float


class Cut(Fault, frozen=True, kw_only=True):
    """All connections to Redis end at once."""

    how: How


class CutAtReply(Fault, frozen=True, kw_only=True):
    """One connection to Redis ends at a reply.

    Attributes:
        reply: which one, from now on.
        how: the connection ends.
        when: before the reply is delivered, or after.
        publishing: count only replies to batches.
    """

    reply: int
    how: How
    when: When
    publishing: bool


class Delay(Fault, frozen=True, kw_only=True):
    """For `seconds`, each reply of Redis is late by `delay` seconds."""

    seconds: float
    delay: float


class Refuse(Fault, frozen=True, kw_only=True):
    """All connections to Redis end, and for `seconds` no new one is accepted."""

    seconds: float
    how: How


class RestartRedis(Fault, frozen=True, kw_only=True):
    """Redis is killed, and starts after `down` seconds with its append-only file."""

    down: float


class EmptyRedis(Fault, frozen=True, kw_only=True):
    """Redis is killed, and starts after `down` seconds with nothing.

    Attributes:
        ingestors: whether all ingestors are killed then, so that no process knows where the
            logs were.
    """

    down: float
    ingestors: bool


class RewindRedis(Fault, frozen=True, kw_only=True):
    """Redis is killed, and starts with what it had `age` seconds before, as a replica that was
    behind has when it is promoted.
    """

    age: float
    down: float


class ShiftClock(Fault, frozen=True, kw_only=True):
    """The clock of Redis is wrong by `offset` seconds for `seconds`; None: to the end."""

    offset: float
    seconds: float | None


class FillRedis(Fault, frozen=True, kw_only=True):
    """For `seconds`, maxmemory is `share` of what Redis uses."""

    share: float
    seconds: float


AnyFault = (
    Kill
    | Restart
    | Stop
    | Cut
    | CutAtReply
    | Delay
    | Refuse
    | RestartRedis
    | EmptyRedis
    | RewindRedis
    | ShiftClock
    | FillRedis
)


class Plan(msgspec.Struct, frozen=True):
    """One run.

    Attributes:
        seed: where everything else comes from.
        seconds: how long faults happen.
        rate: new certificates a second.
        server: which Redis.
        retained: bytes that each stream keeps; little makes Redis trim what slow clients lack.
        faults: in the order of their times.
    """

    seed: int
    seconds: float
    rate: float
    server: Server
    retained: int
    faults: tuple[AnyFault, ...]


def draw(seed: int, seconds: float, rate: float, servers: Sequence[Server], *, clock: bool) -> Plan:
    """Draw a plan.

    Args:
        seed: the same gives the same.
        seconds: how long faults happen.
        rate: new certificates a second.
        servers: which Redis servers there are.
        clock: whether the clock of Redis can be shifted.
    """
    chance = random.Random(seed)
    server = chance.choice(servers)
    retained = chance.choice((256 * 1024, 2 * 1024 * 1024, 64 * 1024 * 1024, 64 * 1024 * 1024))
    makers = [*_MAKERS, *([_shift_clock] * 2 if clock else [])]
    faults: list[AnyFault] = []
    at = chance.uniform(0.5, 2)
    while at < seconds - 1:
        faults.append(chance.choice(makers)(chance, round(at, 2), seconds - at))
        # Some come so close that one hits what another has left behind.
        at += chance.uniform(0.05, 1) if chance.random() < 0.35 else chance.uniform(1.5, 7)
    return Plan(seed, seconds, rate, server, retained, tuple(faults))


def _seconds(chance: random.Random, low: float, high: float, left: float) -> float:
    return round(min(chance.uniform(low, high), left), 2)


def _how(chance: random.Random) -> How:
    return chance.choice(("rst", "fin"))


def _kill(chance: random.Random, at: float, left: float) -> Kill:
    victims = chance.choice(((chance.choice(PROCESSES),), INGESTORS, GATEWAYS))
    return Kill(at=at, processes=victims, down=_seconds(chance, 0, 2, left))


def _restart(chance: random.Random, at: float, _: float) -> Restart:
    return Restart(at=at, process=chance.choice((*INGESTORS, *GATEWAYS)))


def _stop(chance: random.Random, at: float, left: float) -> Stop:
    """Shorter or longer than the lease of a log, which is 5 s."""
    low, high = chance.choice(((0.2, 3), (6, 11)))
    process = chance.choice((*PROCESSES, REDIS))
    return Stop(at=at, process=process, seconds=_seconds(chance, low, high, left))


def _cut(chance: random.Random, at: float, _: float) -> Cut:
    return Cut(at=at, how=_how(chance))


def _cut_at_reply(chance: random.Random, at: float, _: float) -> CutAtReply:
    when: When = chance.choice(("before", "after"))
    publishing = chance.random() < 0.5
    return CutAtReply(
        at=at, reply=chance.randint(1, 20), how=_how(chance), when=when, publishing=publishing
    )


def _delay(chance: random.Random, at: float, left: float) -> Delay:
    return Delay(at=at, seconds=_seconds(chance, 1, 8, left), delay=chance.choice((0.02, 0.2, 1.0)))


def _refuse(chance: random.Random, at: float, left: float) -> Refuse:
    return Refuse(at=at, seconds=_seconds(chance, 0.5, 7, left), how=_how(chance))


def _restart_redis(chance: random.Random, at: float, left: float) -> RestartRedis:
    return RestartRedis(at=at, down=_seconds(chance, 0, 7, left))


def _empty_redis(chance: random.Random, at: float, left: float) -> EmptyRedis:
    down = _seconds(chance, 0, 7, left)
    return EmptyRedis(at=at, down=down, ingestors=chance.random() < 0.3)


def _rewind_redis(chance: random.Random, at: float, left: float) -> RewindRedis:
    age = round(min(chance.uniform(0.2, 8), at), 2)
    return RewindRedis(at=at, age=age, down=_seconds(chance, 0, 3, left))


def _shift_clock(chance: random.Random, at: float, left: float) -> ShiftClock:
    offset = chance.choice((-3600.0, -120.0, -20.0, -2.0, 2.0, 20.0, 3600.0, 30 * 86_400.0))
    lasts = None if chance.random() < 0.3 else _seconds(chance, 1, 12, left)
    return ShiftClock(at=at, offset=offset, seconds=lasts)


def _fill_redis(chance: random.Random, at: float, left: float) -> FillRedis:
    share = chance.choice((0.1, 0.7, 0.9, 1.0))
    return FillRedis(at=at, share=share, seconds=_seconds(chance, 1, 8, left))


_MAKERS: tuple[Callable[[random.Random, float, float], AnyFault], ...] = (
    *(_kill, _kill, _stop, _stop, _restart),
    *(_cut, _cut_at_reply, _delay, _refuse),
    *(_restart_redis, _empty_redis, _rewind_redis, _fill_redis),
)
