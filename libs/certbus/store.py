"""The base of all modules that keep something in Redis: scripts, round trips, values.

The Lua scripts are in the folder `lua/` beside the module that uses them. Each file begins with
four headings: Purpose, KEYS, ARGV, Returns. Redis runs a script whole, without another command
between, but does not undo it when it fails half-way. So each script reads and checks everything
before its first write. A full Redis rejects the first write of a script and ends it there; after
one accepted write it accepts the others. Scripts make some of their keys (hashes of marks), so
Redis Cluster is not supported.

A value in Redis that this release cannot read is as if absent: another release, an operator or a
damaged copy may have written it. `text`, `read_struct` and `read_json` read values in that way.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from importlib import resources
from typing import Any, Final, Literal, TypeVar

import msgspec
from redis.asyncio import Redis

from certbus.clock import redis_ms
from certbus.ids import new_event
from certbus.keys import Keys

T = TypeVar("T")

MAX_TEXT_CHARS: Final = 500
"""Of a reason, a problem or another text for people."""

Change = (
    tuple[Literal["set", "time", "time_once", "add", "delete", "once"], str, Any]
    | (tuple[Literal["evidence"], int, str])
)
"""One change of update_fields.lua: operation, field and value."""

_PRELUDE: Final = "lua/prelude.lua"


@cache
def script_text(*paths: str) -> str:
    """Return the text of one script: the general prelude, then these files.

    A process reads each file once, when it imports the modules: it may lack descriptors later.

    Args:
        paths: relative to this package, the preludes that the last file needs before it.
    """
    package = resources.files("certbus")
    return "\n".join(package.joinpath(path).read_text("utf-8") for path in (_PRELUDE, *paths))


def script(*paths: str) -> "cached_property[Any]":
    """Make an attribute of a `Store`: the callable of one script, registered on first use."""
    text = script_text(*paths)
    return cached_property(lambda store: store._redis.register_script(text))  # noqa: SLF001  (its own)


class Store:
    """What one module keeps in Redis.

    Args:
        client: the primary.
        keys: names of the keys.
    """

    _update_fields = script("lua/update_fields.lua")

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys

    async def now(self) -> float:
        """Return the time of Redis, seconds since the epoch: the one that stored times are in."""
        return await redis_ms(self._redis) / 1000

    async def _update(self, key: str, *changes: Change, evidence: str = "") -> None:
        """Make changes of one hash in one step; a change `evidence` is to the key of this name."""
        keys = [key, evidence] if evidence else [key]
        await self._update_fields(keys=keys, args=[part for change in changes for part in change])


def counted_once(field: str, event: str = "") -> Change:
    """Return the first change of an update that counts: repeated, the call does nothing.

    Args:
        field: holds the name of the last event.
        event: name of this one; empty: a new one, for a call that only redis-py repeats.
    """
    return "once", field, event or new_event()


async def round_trip(client: Redis, commands: Iterable[Sequence[str | bytes | int]]) -> list[Any]:
    """Send commands in one round trip; return their replies, none without commands.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached, or rejects one of them.
    """
    async with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute() if len(pipeline) else []


def text(value: bytes) -> str:
    """Decode a text, which is UTF-8 unless it is damaged."""
    return value.decode("utf-8", "replace")


def texts(names: Iterable[bytes | str], values: Iterable[bytes | None]) -> dict[str, str]:
    """Decode those fields of a hash that are set."""
    return {
        name if isinstance(name, str) else text(name): text(value)
        for name, value in zip(names, values, strict=True)
        if value is not None
    }


def read_struct(kind: type[T], fields: Mapping[str, Any], **required: Any) -> T:
    """Make a struct of the fields of a hash, by name, numbers as text; see above.

    `required` are the values of the fields that have no default.
    """
    try:
        return msgspec.convert({**fields, **required}, kind, strict=False)
    except msgspec.ValidationError:
        readable = {**required}
        for name, value in fields.items():
            with suppress(msgspec.ValidationError):
                msgspec.convert({**required, name: value}, kind, strict=False)
                readable[name] = value
        return msgspec.convert(readable, kind, strict=False)


def read_json(value: bytes | str | None, kind: type[T]) -> T | None:
    """Decode JSON; None if there is none of this type."""
    try:
        return msgspec.json.decode(value or b"", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
