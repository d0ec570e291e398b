"""Answers that are slow, refused or broken: what each fault does to one request.

Everything here is a function of the fault, the request and the right answer; the server moves the
bytes, late or endless as they are.
"""

import zlib
from collections.abc import Iterable
from http import HTTPStatus

from msgspec.structs import replace

from simlog import fault_types
from simlog.ctlog.request_target import RequestTarget
from simlog.ctlog.static_ct import dropped_partial
from simlog.fault_types import ServedFault
from simlog.http_server import Response, broken_off

PAGE = b"<!DOCTYPE html><title>Maintenance</title><p>We will be back shortly.</p>\n"
GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
PIECE = 1 << 16
ZEROS = bytes(1 << 20)


def narrowed(fault: ServedFault, luck: float, target: RequestTarget) -> RequestTarget:
    """Return the request as the log understands it."""
    if (
        isinstance(fault, fault_types.Fewer)
        and target.path == "ct/v1/get-entries"
        and target.entries
    ):
        last = target.entries.start + int(luck * min(fault.entries, len(target.entries)))
        return replace(target, query={**target.query, "end": str(last)})
    return target


def broken(
    fault: ServedFault, luck: float, target: RequestTarget, size: int, response: Response
) -> Response:
    """Return an answer as the fault changes it.

    Args:
        fault: that hits the request.
        luck: in [0, 1), for what the fault leaves open.
        target: the request.
        size: entries that the log has published.
        response: the answer without this fault.
    """
    match fault:
        case fault_types.Latency(seconds=seconds, jitter=jitter):
            response = replace(response, delay=response.delay + seconds + luck * jitter)
        case fault_types.Status(code=code, retry_after=retry_after):
            response = replace(_refusal(code, retry_after), delay=response.delay)
        case fault_types.NoPartials():
            gone = dropped_partial(target.path, size)
            response = replace(gone, delay=response.delay) if gone else response
        case fault_types.WrongContent():
            response = Response(PAGE, "text/html", delay=response.delay)
        case fault_types.Bomb(size=zeros):
            gzipped = (("content-encoding", "gzip"),)
            response = replace(response, body=_bomb(zeros), status=200, headers=gzipped)
        case _ if isinstance(response.body, bytes):
            body = _rewritten(fault, target, response.status, response.body)
            response = replace(response, body=body)
    return response


def _rewritten(
    fault: ServedFault, target: RequestTarget, status: int, body: bytes
) -> bytes | Iterable[bytes]:
    match fault:
        case fault_types.Reset(after=after):
            return broken_off(body, after)
        case fault_types.Truncated():
            return body[: len(body) // 2]
        case fault_types.Oversized(size=size):
            return _padded(body, size)
        case fault_types.WrongIssuer() if target.part == "issuers" and status == HTTPStatus.OK:
            return body[:-1] + bytes((body[-1] ^ 1,))
    return body


def _refusal(code: int, retry_after: int | None) -> Response:
    headers = () if retry_after is None else (("retry-after", str(retry_after)),)
    return Response(b"simulated fault\n", status=code, headers=headers)


def _padded(body: bytes, size: int | None) -> Iterable[bytes]:
    yield body
    space = b" " * PIECE
    while size is None or size > 0:
        yield space if size is None else space[:size]
        size = None if size is None else size - PIECE


def _bomb(size: int) -> Iterable[bytes]:
    """Yield gzip of `size` zeros. A block is independent of others, so it is compressed once."""
    whole, rest = divmod(size, len(ZEROS))
    yield GZIP_HEADER
    block, checksum = _deflated(ZEROS, zlib.Z_FULL_FLUSH), 0
    for _ in range(whole):
        checksum = zlib.crc32(ZEROS, checksum)
        yield block
    checksum = zlib.crc32(ZEROS[:rest], checksum)
    yield _deflated(ZEROS[:rest], zlib.Z_FINISH)
    yield checksum.to_bytes(4, "little") + (size % (1 << 32)).to_bytes(4, "little")


def _deflated(data: bytes, flush: int) -> bytes:
    compress = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return compress.compress(data) + compress.flush(flush)
