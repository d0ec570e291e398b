"""How many logs each worker should hold. Pure: no I/O, no clock.

Every worker computes the same answer from the same heartbeats. Those who hold most keep what does
not divide evenly, so that a worker that joins or dies moves as few logs as can be. (Sharing by
measured load instead of by count would belong here.)
"""

from collections.abc import Mapping


def quota(held: Mapping[str, int], logs: int, worker: str) -> int:
    """How many logs `worker` should hold.

    Args:
        held: how many logs each live worker holds now, `worker` among them.
        logs: how many logs there are.
        worker: whose share is asked for.
    """
    each, remainder = divmod(logs, len(held))
    ranking = sorted(held, key=lambda name: (-held[name], name))
    return each + (ranking.index(worker) < remainder)
