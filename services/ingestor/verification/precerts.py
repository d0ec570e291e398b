"""Submitted precertificates against their leaves.

The leaf of a precertificate entry holds the TBSCertificate without its poison extension (RFC 6962,
section 3.2); the submitted precertificate itself is not in the tree. So a log can return another
one with a leaf that is proven.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ctparse.certificate import MAX_BYTES, CertificateReader
from ctparse.entry import Entry, IncompleteChain, Rejected, Unreadable
from ctparse.precert import is_committed
from ingestor.client.interface import LogClient
from ingestor.cpu import LARGE_BYTES, Cpu, Slices


class Mismatch(NamedTuple):
    """A precertificate that its leaf does not commit to.

    Attributes:
        position: of the entry, in its window.
        rejected: what to publish instead of the entry.
        is_certain: whether it is forged. If not, an unknown Precertificate Signing Certificate
            may have issued it.
    """

    position: int
    rejected: Rejected
    is_certain: bool


class PrecertCheck:
    """Compares the precertificates of one log with their leaves.

    Args:
        client: has the issuers.
        cpu: shared by the logs of this process.
    """

    def __init__(self, client: LogClient, cpu: Cpu) -> None:
        self._client = client
        self._slices = Slices(cpu)

    async def mismatches(self, entries: Sequence[Entry | Rejected]) -> list[Mismatch]:
        """Return the precertificates that their leaves do not commit to.

        Precertificates that publishing rejects anyway, for their size or as unreadable, are left
        out.
        """
        slices, found = self._slices, []
        slices.begin()
        for position, entry in enumerate(entries):
            if isinstance(entry, Rejected) or not entry.is_precert:
                continue
            if slices.exhausted:
                await slices.wait()
            if len(entry.certificate) > MAX_BYTES:
                continue
            problem = f"entry {entry.index}: the leaf does not commit to this precertificate"
            try:
                if not await self._is_forged(entry):
                    continue
                is_certain = True
            except IncompleteChain as error:
                problem = f"{problem}, as far as its chain is known: {error}"
                is_certain = False
            rejected = Rejected(entry.index, problem, entry.certificate, entry.leaf)
            found.append(Mismatch(position, rejected, is_certain))
        slices.pause()
        return found

    async def _is_forged(self, entry: Entry) -> bool:
        """Return whether a readable precertificate is not the one of its leaf.

        Raises:
            IncompleteChain: the answer depends on its issuer, which is not known.
        """
        if len(entry.certificate) <= LARGE_BYTES:
            return _is_forged(entry, self._client.issuer_chain)
        return await self._slices.in_thread(_is_forged, entry, self._client.issuer_chain)


def _is_forged(entry: Entry, resolve: Callable[[bytes], Sequence[bytes]]) -> bool:
    return not is_committed(entry, resolve) and _is_readable(entry.certificate)


def _is_readable(certificate: bytes) -> bool:
    try:
        CertificateReader().read(certificate)
    except Unreadable:
        return False
    return True
