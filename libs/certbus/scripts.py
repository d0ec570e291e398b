"""The Lua scripts: `lua/<name>.lua`, read once when the object that needs them is made.

Redis runs a script whole and undisturbed, but does not undo it when it fails half-way, so each
script reads and checks everything before its first write. And one rule of Redis shapes all of
them: when it is full, the first write of a script is refused, and the script ends there with
nothing done; once something is written, the writes that follow are let through. Keys are partly
made up inside the scripts (buckets of marks), so Redis Cluster is not supported.
"""

from importlib import resources

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

# Redis 6.2 would write the script itself to its AOF and to replicas, and run it again there at
# another time. From 7.0 on this is the only way there is.
_REPLICATE_EFFECTS = "redis.replicate_commands()"


def register_script(client: Redis, *names: str) -> AsyncScript:
    """Make one script of the files `names`, the earlier ones being what the last one needs."""
    folder = resources.files("certbus") / "lua"
    texts = [(folder / f"{name}.lua").read_text("utf-8") for name in names]
    return client.register_script("\n".join([_REPLICATE_EFFECTS, *texts]))
