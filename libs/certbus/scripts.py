"""The Lua scripts. Each is in the folder `lua/` beside the module that loads it.

Redis runs a script whole, without another command between, but does not undo it when it fails
half-way. So each script reads and checks everything before its first write. A full Redis rejects
the first write of a script and ends it there; after one accepted write it accepts the others.
Scripts make some of their keys (hashes of marks), so Redis Cluster is not supported.

Each file begins with four headings: Purpose, KEYS, ARGV, Returns.
"""

from importlib import resources
from typing import Final

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

_PRELUDE: Final = "lua/prelude.lua"


def script_text(*paths: str) -> str:
    """Return the text of one script: the general prelude, then these files.

    Args:
        paths: relative to this package, the preludes that the last file needs before it.
    """
    package = resources.files("certbus")
    return "\n".join(package.joinpath(path).read_text("utf-8") for path in (_PRELUDE, *paths))


def register_script(client: Redis, *paths: str) -> AsyncScript:
    """Make a callable of one script. `paths` are as for `script_text`."""
    return client.register_script(script_text(*paths))
