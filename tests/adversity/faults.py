"""The faults of a run. Pure."""

import msgspec

from simlog import fault_types
from tests.certbus.proxy import How, When
from tests.e2e import sentinels

INGESTORS = ("ingestor-1", "ingestor-2")
GATEWAYS = ("gateway-1", "gateway-2")
LOGS = "simlog"
REDIS = "redis"
SERVERS = (*INGESTORS, *GATEWAYS)
PROCESSES = (*SERVERS, LOGS)

PUBLISH = b'"fence":'
"""What only the requests that publish a batch contain."""

SCRIPTS = {
    "publish": ("lua/marks.lua", "streams/lua/publish.lua"),
    "find_marks": ("lua/marks.lua", "streams/lua/find_marks.lua"),
    "trim": ("lua/ages.lua", "streams/lua/trim.lua"),
    "acquire": ("logs/lua/acquire.lua",),
    "renew": ("logs/lua/renew.lua",),
    "heartbeat": ("lua/heartbeat.lua",),
    "reserve": ("lua/operator_slots.lua", "limits/lua/reserve_request_slot.lua"),
    "update_fields": ("lua/update_fields.lua",),
}
"""Scripts that run often enough to be cut at -> their files, as for `certbus.store.script_text`."""

LOG_FAULTS: tuple[fault_types.AnyFault, ...] = (
    *fault_types.HTTP_FAULTS,
    fault_types.Malformed(share=0.2),
    fault_types.SwappedLeaf(every=10),
    fault_types.ForgedPrecert(every=3),
    fault_types.Garbled(every=10),
    fault_types.WrongLeafIndex(every=10),
    fault_types.WrongRoot(),
    fault_types.BadSignature(),
    fault_types.Fork(),
    fault_types.Rewind(entries=20),
    fault_types.WrongProofs(),
    fault_types.WrongIssuer(),
)
"""Every kind of fault of simulated logs, with values for logs of some hundred entries."""

ONLY_OF: dict[type[fault_types.Fault], str] = {
    fault_types.NoPartials: "static-ct",
    fault_types.WrongLeafIndex: "static-ct",
    fault_types.WrongIssuer: "static-ct",
    fault_types.Fewer: "rfc6962",
}
"""Faults that change nothing in a log of the other kind -> the kind that they change."""


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


class StopAtPublish(Fault, frozen=True, kw_only=True):
    """An ingestor stops after it has sent a batch, until another one has the lease of the log.

    Redis gets the batch just then, before a batch of the new owner: only the fence refuses it.

    Attributes:
        seconds: after which the ingestor continues in any case.
    """

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


class FillDisk(Fault, frozen=True, kw_only=True):
    """For `seconds`, the append-only file of Redis cannot grow by more than `spare` bytes."""

    spare: int
    seconds: float


class CutAtCall(Fault, frozen=True, kw_only=True):
    """One connection to Redis ends at a call of a script.

    Attributes:
        script: its name in `SCRIPTS`.
        call: which one, from now on.
        how: the connection ends.
        when: before Redis has the call, before the reply is delivered, or after.
    """

    script: str
    call: int
    how: How
    when: When


class Roll(Fault, frozen=True, kw_only=True):
    """SIGTERM and a new start of one process after the other, as in an upgrade of all."""

    processes: tuple[str, ...]


class Reload(Fault, frozen=True, kw_only=True):
    """The configuration changes again and again, each third time to an invalid one.

    Attributes:
        times: how often.
        pause: seconds between.
    """

    times: int
    pause: float


class LimitDescriptors(Fault, frozen=True, kw_only=True):
    """For `seconds`, a process may open only `spare` descriptors more."""

    process: str
    spare: int
    seconds: float


class ShiftHost(Fault, frozen=True, kw_only=True):
    """The clock of a host, with one process, is wrong by `offset` seconds for `seconds`."""

    process: str
    offset: float
    seconds: float


class LogFault(Fault, frozen=True, kw_only=True):
    """For `seconds`, a log is slow, broken or untrue.

    Attributes:
        log: number of the log, of those that the fault can change.
        fault: index in `LOG_FAULTS`.
    """

    log: int
    fault: int
    seconds: float

    @property
    def kind(self) -> str:
        """What is wrong."""
        return type(LOG_FAULTS[self.fault]).__name__

    def __str__(self) -> str:
        return f"LogFault(log={self.log}, {LOG_FAULTS[self.fault]}, seconds={self.seconds:g})"


class FailOver(Fault, frozen=True, kw_only=True):
    """The primary is away until `seconds` after the sentinels chose another one.

    Attributes:
        how: it is killed, stopped, or cut off with an ingestor and a gateway.
        seconds: how long.
    """

    how: sentinels.How
    seconds: float


AnyFault = (
    Kill
    | Restart
    | Stop
    | StopAtPublish
    | Cut
    | CutAtReply
    | Delay
    | Refuse
    | RestartRedis
    | EmptyRedis
    | RewindRedis
    | ShiftClock
    | FillRedis
    | FillDisk
    | CutAtCall
    | Roll
    | Reload
    | LimitDescriptors
    | ShiftHost
    | LogFault
    | FailOver
)
