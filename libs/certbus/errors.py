"""The errors of Redis: one family, which `connection.py` raises and all other modules catch.

Whatever the socket, the event loop, redis-py or Redis itself raises leaves a client of
`connection.connect` as one of four kinds:

    ConnectionFailed   Redis cannot be reached, or answers that it does not serve now
    TimedOut           no answer in time
    WriteRefused       Redis answers, but refuses to write, or refuses it to this user
    anything else      a bug of this program, or wrong data in Redis: it does not pass

The first three are `UNAVAILABLE`: they concern every caller alike, and end when Redis or the
connection to it works again. A command that ended with ConnectionFailed or TimedOut may have been
executed.
"""

import re
from typing import Final

import redis.exceptions

ConnectionFailed = redis.exceptions.ConnectionError
TimedOut = redis.exceptions.TimeoutError


class WriteRefused(redis.exceptions.ResponseError):
    """Redis refuses to write, for the time being.

    Attributes:
        status_code: why, one of `_REFUSALS`.
    """


UNAVAILABLE: Final = (ConnectionFailed, TimedOut, WriteRefused)
"""Errors that pass, and have no relation to the command, the key or the log."""

_REFUSALS: Final = frozenset(
    {
        "OOM",  # maxmemory is reached
        "READONLY",  # a replica
        "MISCONF",  # its disk does not take its data
        "NOREPLICAS",  # fewer replicas than min-replicas-to-write
        "NOPERM",  # this user may not (ACL)
    }
)

# redis-py has classes for LOADING and authentication, which are ConnectionErrors already.
_NOT_SERVING: Final = frozenset(
    {
        "BUSY",  # a script runs for longer than lua-time-limit
        "MASTERDOWN",  # a replica without its primary
        "UNBLOCKED",  # it became a replica while a read was blocked
        "DENIED",  # protected mode; as without a password, until it is configured
        "CLUSTERDOWN",
        "TRYAGAIN",  # a cluster moves the keys
    }
)

# Redis 6.2 wraps the error of a command that a script calls in one of its own.
_IN_SCRIPT: Final = re.compile(
    r"Error running script .*?: @user_script: ?\d+: -([A-Z]+) ", re.DOTALL
)
# EXEC wraps its own refusal, if Redis has changed since it took the commands of the transaction.
_IN_EXEC: Final = re.compile(r"Transaction discarded because of: ([A-Z]+) ")
_NOPERM_IN_SCRIPT: Final = re.compile(
    r"The user executing the script can't run this command|ACL failure in script"
)


def of_reply(error: redis.exceptions.ResponseError) -> redis.exceptions.RedisError:
    """Give the error of the family for an error reply, as redis-py read it from the connection.

    Returns:
        The error itself, if Redis refuses this one command: a bug.
    """
    if isinstance(error, WriteRefused):
        return error
    code, text = _code(error), str(error)
    if code in _REFUSALS:
        return WriteRefused(_with_code(code, text), status_code=code)
    if code in _NOT_SERVING:
        return ConnectionFailed(_with_code(code, text), status_code=code)
    return error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Redis refused to write because it has reached maxmemory."""
    return isinstance(error, WriteRefused) and error.status_code == "OOM"


def describe(error: BaseException) -> str:
    """Return the error as one line, never empty."""
    return " ".join(str(error).split()) or type(error).__name__


def _code(error: redis.exceptions.ResponseError) -> str:
    """The word an error reply begins with, or that of the command that failed in a script."""
    text = str(error)
    if error.status_code == "EXECABORT" and (found := _IN_EXEC.match(text)):
        return found[1]
    if error.status_code not in (None, "ERR"):
        return str(error.status_code)
    if found := _IN_SCRIPT.match(text):
        return found[1]
    if error.status_code == "ERR" and _NOPERM_IN_SCRIPT.search(text):
        return "NOPERM"
    return text.partition(" ")[0]


def _with_code(code: str, text: str) -> str:
    """Restore the code, which redis-py removes and operators search for."""
    return text if code in text else f"{code} {text}"
