"""The rights of the users of Redis: the rules of an ACL, one for each kind of Redis.

A rule allows exactly the commands that this package calls, on keys under the prefix, except CONFIG
GET, which is not needed and shows passwords. The
commands of scripts are listed too: Redis checks them like those of the user.
"""

import re
from hashlib import sha256
from typing import Final, Literal

Server = Literal["primary", "replica", "sentinel"]
"""What the user connects to: a replica from which gateways read needs fewer rights."""

_CONNECTION: Final = ("select", "client|setname", "info", "time")
_SCRIPTS: Final = ("evalsha", "script|load")
_TRANSACTIONS: Final = ("multi", "exec")
_READS: Final = ("hmget", "xrange", "xread", "xrevrange")

COMMANDS: Final[dict[Server, tuple[str, ...]]] = {
    "primary": (
        *_CONNECTION,
        *("ping", "role"),
        *_SCRIPTS,
        *_TRANSACTIONS,
        *("del", "exists", "expire", "persist", "pexpire", "pexpireat", "pttl", "rename", "unlink"),
        *("get", "getrange", "set", "bitfield", "bitfield_ro"),
        *("hdel", "hexists", "hget", "hgetall", "hincrby", "hlen", "hset", "hsetnx"),
        *("lindex", "lpos", "rpush"),
        *("sadd", "smembers", "srem"),
        *("zadd", "zrangebyscore", "zrem", "zremrangebyscore", "zscore"),
        *("xadd", "xlen", "xtrim"),
        *_READS,
    ),
    "replica": (*_CONNECTION, *_SCRIPTS, *_TRANSACTIONS, *_READS),
    "sentinel": ("sentinel|get-master-addr-by-name", "sentinel|replicas"),
}
"""Commands by the Redis that executes them, as in an ACL. AUTH is allowed to everyone."""

_PATTERNS: Final[dict[Server, tuple[str, ...]]] = {
    "primary": ("*",),
    "replica": ("head", "stream:*"),
    "sentinel": (),
}
"""Patterns of keys, after the prefix."""


def acl_rule(server: Server, user: str, prefix: str, password: str | None = None) -> str:
    """Return a line for the ACL file or the configuration file of Redis 6.2 or newer.

    Args:
        server: what the user connects to.
        user: name of the user.
        prefix: of all keys.
        password: the line has its SHA-256. Without one the user cannot log in.

    Raises:
        ValueError: a blank in `user` or `prefix`, which an ACL cannot have.
    """
    for text in (user, prefix):
        if not text.isprintable() or " " in text:
            raise ValueError(f"{text!r} cannot be part of an ACL: it has a blank")
    passwords = [] if password is None else [f"#{sha256(password.encode()).hexdigest()}"]
    keys = [f"~{_escaped(prefix)}{pattern}" for pattern in _PATTERNS[server]]
    allowed = [f"+{command}" for command in COMMANDS[server]]
    return " ".join(["user", user, "reset", "on", *passwords, *keys, "-@all", *allowed])


def _escaped(prefix: str) -> str:
    """Escape what a pattern of Redis takes for more than itself."""
    return re.sub(r"([\\*?\[\]^])", r"\\\1", prefix)
