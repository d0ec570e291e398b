"""The roll of logs: by which id each is known.

The id of a log is that of its key, or made of its URL while nobody knows the key. When somebody
does, the log is renamed in one step, under whoever follows it, and its old id leads to the new one
for every worker that still knows it by its URL only.
"""

from collections.abc import Sequence

from redis.asyncio import Redis

from certbus import scripts
from certbus.keys import Keys
from certbus.ledger import EVIDENCE_KEPT


class Roll:
    """Reads and writes it.

    Args:
        client: the primary.
        keys: names of the keys.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys
        self._rename = scripts.load(client, "rename")

    async def renamed(self, log_ids: Sequence[str]) -> dict[str, str]:
        """Those of these ids that lead to a better one -> that one."""
        if not log_ids:
            return {}
        async with self._redis.pipeline(transaction=False) as pipeline:
            for log_id in log_ids:
                pipeline.hget(self._keys.log(log_id), "renamed")
            replies = await pipeline.execute()
        better = zip(log_ids, replies, strict=True)
        return {log_id: reply.decode() for log_id, reply in better if reply is not None}

    async def rename(self, old: str, new: str) -> bool:
        """Call a log by a better id, and let the old one lead there; once for ever.

        Its position, counters, tree and evidence stay what they are. Its lease ends: whoever
        takes the log goes on from its `next`.

        Returns:
            Whether anything was kept under the old id.
        """
        keys = self._keys
        reply = await self._rename(
            keys=[
                *(keys.log(old), keys.log(new)),
                *(keys.lease(old), keys.lease(new)),
                *(keys.evidence(old), keys.evidence(new)),
                keys.logs,
            ],
            args=[old, new, EVIDENCE_KEPT],
        )
        return bool(reply)
