"""The plan of one run: everything that a seed decides. Pure.

A plan names each fault with its time and its values, so a failing seed is replayed by its number.
What the processes make of the faults depends on the machine's scheduling, so a replay has the
same faults at the same times, and not always the same end.
"""

import random
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import msgspec

from simlog.fault_types import Malformed
from tests.adversity.faults import (
    GATEWAYS,
    INGESTORS,
    LOG_FAULTS,
    PROCESSES,
    REDIS,
    SCRIPTS,
    SERVERS,
    AnyFault,
    Cut,
    CutAtCall,
    CutAtReply,
    Delay,
    EmptyRedis,
    FailOver,
    FillDisk,
    FillRedis,
    Kill,
    LimitDescriptors,
    LogFault,
    Refuse,
    Reload,
    Restart,
    RestartRedis,
    RewindRedis,
    Roll,
    ShiftClock,
    ShiftHost,
    Stop,
    StopAtPublish,
)
from tests.certbus.proxy import How, When
from tests.e2e.sentinels import KINDS
from tests.e2e.sentinels import How as FailOverKind

Server = Literal["redis6", "redis7"]
"""Names of `tests.certbus.servers.executables`."""

MIN_FIELD_SECS = 40.0
"""Shorter runs have no logs with a profile, and none that are far behind: these take longer."""

SEEDS = 500
"""Plans of the seeds below it have each kind: each is in about one of ten."""

SENTINELS_EACH = 3
"""Each third seed has sentinels: 200 runs have each kind of fail-over 22 times."""

FIELD_OPERATORS = ("Google", "DigiCert", "TrustAsia", "Let's Encrypt", "IPng Networks", "Geomys")
"""Those of the field profile whose tree heads come within seconds."""


Maker = Callable[[random.Random, float, float], AnyFault]


class Plan(msgspec.Struct, frozen=True):
    """One run.

    Attributes:
        seed: where everything else comes from.
        seconds: how long faults happen.
        rate: new certificates a second.
        server: which Redis.
        retained: bytes that each stream keeps; little makes Redis trim what slow clients lack.
        faults: in the order of their times.
        operators: whose logs of the field profile are served; none: five logs without a profile.
        is_bounded: whether the logs begin further behind than the ingestors permit.
        has_sentinels: whether Redis is a primary with two replicas and three sentinels.
    """

    seed: int
    seconds: float
    rate: float
    server: Server
    retained: int
    faults: tuple[AnyFault, ...]
    operators: tuple[str, ...] = ()
    is_bounded: bool = False
    has_sentinels: bool = False

    @property
    def end(self) -> float:
        """When the last fault ends, in seconds, as far as the plan decides it."""
        lasting = [fault for fault in self.faults if isinstance(fault, StopAtPublish)]
        return max([self.seconds, *(fault.at + fault.seconds for fault in lasting)])

    def drawn(self) -> list[str]:
        """Return the name of each fault, and of what the logs of the run are."""
        return [*(name_of(fault) for fault in self.faults), *self.kinds_of_logs()]

    def kinds_of_logs(self) -> list[str]:
        """Return the name of what the logs of the run are; none for the usual ones."""
        return [
            *(["field profile"] if self.operators else []),
            *(["bounded delay"] if self.is_bounded else []),
        ]

    def malformed(self, logs: Sequence[str]) -> list[str]:
        """Return the faults that are in the trees of logs, as options of simlog.

        Args:
            logs: their names. Seconds count from their time zero, which is about when the first
                fault happens.
        """
        return [
            f"{logs[fault.log % len(logs)]}:malformed:"
            f"share={wrong.share},since={fault.at},until={fault.at + fault.seconds:.2f}"
            for fault in self.faults
            if isinstance(fault, LogFault)
            and isinstance(wrong := LOG_FAULTS[fault.fault], Malformed)
        ]


def name_of(fault: AnyFault) -> str:
    """Return the kind of a fault, by which runs count it."""
    return f"{type(fault).__name__} {_variant(fault)}".strip()


def _variant(fault: AnyFault) -> str:
    match fault:
        case LogFault():
            return fault.kind
        case FailOver():
            return fault.how
        case Kill(processes=processes) | Roll(processes=processes):
            return " and ".join(sorted({name.partition("-")[0] for name in processes}))
        case Stop(process=name) | Restart(process=name) | LimitDescriptors(process=name):
            return name.partition("-")[0]
        case CutAtCall(when=when) | CutAtReply(when=when):
            return {"unsent": "before the call"}.get(when, f"{when} the reply")
        case _:
            return ""


def all_kinds() -> frozenset[str]:
    """Return every name that plans can have: what the seeds below `SEEDS` draw."""
    plans = (draw(seed, MIN_FIELD_SECS, 30, ["redis6"], clock=True) for seed in range(SEEDS))
    return frozenset(kind for plan in plans for kind in plan.drawn())


def draw(seed: int, seconds: float, rate: float, servers: Sequence[Server], *, clock: bool) -> Plan:
    """Draw a plan.

    Args:
        seed: the same gives the same.
        seconds: how long faults happen.
        rate: new certificates a second.
        servers: which Redis servers there are.
        clock: whether the clocks of Redis and of processes can be shifted.
    """
    chance = random.Random(seed)
    server = chance.choice(servers)
    retained = chance.choice((256 * 1024, 2 * 1024 * 1024, 64 * 1024 * 1024, 64 * 1024 * 1024))
    has_sentinels = seconds >= MIN_FIELD_SECS and seed % SENTINELS_EACH == 0
    makers = [*_MAKERS, *(_CLOCK_MAKERS if clock else ())]
    operators: tuple[str, ...] = ()
    if seconds >= MIN_FIELD_SECS and chance.random() < 0.2:
        operators = tuple(sorted(chance.sample(FIELD_OPERATORS, 2)))
    is_bounded = seconds >= MIN_FIELD_SECS and not operators and chance.random() < 0.2
    faults: list[AnyFault] = []
    if has_sentinels:
        makers = [*_MAKERS_WITH_SENTINELS]
        how = KINDS[seed // SENTINELS_EACH % len(KINDS)]
        faults.append(_fail_over(chance, seconds, how))
    at = chance.uniform(0.5, 2)
    while at < seconds - 1:
        faults.append(chance.choice(makers)(chance, round(at, 2), seconds - at))
        # Some come so close that one hits what another has left behind.
        at += chance.uniform(0.05, 1) if chance.random() < 0.35 else chance.uniform(1.5, 7)
    faults.sort(key=lambda fault: fault.at)
    return Plan(
        seed, seconds, rate, server, retained, tuple(faults), operators, is_bounded, has_sentinels
    )


def _seconds(chance: random.Random, low: float, high: float, left: float) -> float:
    return round(min(chance.uniform(low, high), left), 2)


def _how(chance: random.Random) -> How:
    return chance.choice(("rst", "fin"))


def _kill(chance: random.Random, at: float, left: float) -> Kill:
    victims = chance.choice(((chance.choice(PROCESSES),), INGESTORS, GATEWAYS))
    return Kill(at=at, processes=victims, down=_seconds(chance, 0, 2, left))


def _restart(chance: random.Random, at: float, _: float) -> Restart:
    return Restart(at=at, process=chance.choice((*INGESTORS, *GATEWAYS)))


def _stop(
    chance: random.Random, at: float, left: float, processes: Sequence[str] = (*PROCESSES, REDIS)
) -> Stop:
    """Shorter or longer than the lease of a log, which is 5 s."""
    low, high = chance.choice(((0.2, 3), (6, 11)))
    process = chance.choice(processes)
    return Stop(at=at, process=process, seconds=_seconds(chance, low, high, left))


def _stop_no_redis(chance: random.Random, at: float, left: float) -> Stop:
    return _stop(chance, at, left, PROCESSES)


def _stop_at_publish(_: random.Random, at: float, __: float) -> StopAtPublish:
    return StopAtPublish(at=at, seconds=20)


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


def _fill_disk(chance: random.Random, at: float, left: float) -> FillDisk:
    return FillDisk(at=at, spare=chance.choice((0, 5_000)), seconds=_seconds(chance, 1, 8, left))


def _cut_at_call(chance: random.Random, at: float, _: float) -> CutAtCall:
    when: When = chance.choice(get_args(When))
    script = chance.choice(tuple(SCRIPTS))
    return CutAtCall(at=at, script=script, call=chance.randint(1, 5), how=_how(chance), when=when)


def _roll(chance: random.Random, at: float, _: float) -> Roll:
    return Roll(at=at, processes=chance.choice((INGESTORS, GATEWAYS, SERVERS)))


def _reload(chance: random.Random, at: float, left: float) -> Reload:
    times = chance.randint(3, 12)
    return Reload(at=at, times=times, pause=round(min(chance.uniform(0, 0.5), left / times), 3))


def _limit_descriptors(chance: random.Random, at: float, left: float) -> LimitDescriptors:
    process, spare = chance.choice(SERVERS), chance.choice((0, 1, 3))
    return LimitDescriptors(
        at=at, process=process, spare=spare, seconds=_seconds(chance, 1, 8, left)
    )


def _shift_host(chance: random.Random, at: float, left: float) -> ShiftHost:
    offset = chance.choice((-86_400.0, -600.0, -5.0, 5.0, 600.0, 86_400.0))
    process = chance.choice(SERVERS)
    return ShiftHost(at=at, process=process, offset=offset, seconds=_seconds(chance, 2, 15, left))


def _log_fault(chance: random.Random, at: float, left: float) -> LogFault:
    fault = chance.randrange(len(LOG_FAULTS))
    return LogFault(
        at=at, log=chance.randrange(5), fault=fault, seconds=_seconds(chance, 2, 12, left)
    )


def _fail_over(chance: random.Random, seconds: float, how: FailOverKind) -> FailOver:
    at = round(chance.uniform(0.1, 0.4) * seconds, 2)
    return FailOver(at=at, how=how, seconds=_seconds(chance, 1, 30, seconds - at))


_MAKERS: tuple[Maker, ...] = (
    *(_kill, _kill, _stop, _stop, _stop_at_publish, _restart),
    *(_cut, _cut_at_reply, _delay, _refuse),
    *(_restart_redis, _empty_redis, _rewind_redis, _fill_redis, _fill_disk),
    *(_cut_at_call, _cut_at_call, _roll, _reload, _limit_descriptors),
    *(_log_fault, _log_fault, _log_fault, _log_fault),
)

_CLOCK_MAKERS: tuple[Maker, ...] = (_shift_clock, _shift_host)

_MAKERS_WITH_SENTINELS: tuple[Maker, ...] = (
    *(_kill, _stop_no_redis, _restart, _roll, _reload, _log_fault, _log_fault),
)
"""No fault of a connection to Redis, or of Redis itself, but for the one of its primary."""
