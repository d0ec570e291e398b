"""Whether two tree heads of a log contradict each other, by what the log itself proves.

A consistency proof that does not verify shows that something is wrong, but not what: the proof may
be, or one of the heads. So a split is only called one when the log has proven it: the inclusion
proof of the smaller tree's last leaf, if it leads to the larger tree's root, shows what the larger
tree begins with (its hashes left of the way up), and so what root the smaller one should have.
"""

from ctparse.merkle import BadProof, Frontier, verify_consistency
from ctparse.tree_head import TreeHead
from ingestor.client.errors import LogError
from ingestor.client.interface import LogClient


async def check_split_view(client: LogClient, smaller: TreeHead, larger: TreeHead) -> bool | None:
    """Ask the log whether the larger tree continues the smaller one.

    Args:
        client: reads the log.
        smaller: with at least one leaf.
        larger: with more.

    Returns:
        True if the log proves that it does not, False if it proves that it does, None if what the
        log answers proves nothing.
    """
    try:
        proof = await client.consistency(smaller.size, larger.size)
        verify_consistency(smaller.size, larger.size, smaller.root, larger.root, proof)
    except BadProof:
        return await _begins_otherwise(client, smaller, larger)
    except LogError:
        return None
    return False


async def _begins_otherwise(client: LogClient, smaller: TreeHead, larger: TreeHead) -> bool | None:
    try:
        shown = await client.inclusion(smaller.size - 1, larger.size)
        beginning = Frontier.from_inclusion_proof(
            smaller.size, larger.size, shown.leaf, shown.path, larger.root
        )
    except (BadProof, LogError):
        return None
    return beginning.root() != smaller.root
