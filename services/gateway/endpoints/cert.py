"""/api/cert/{hash}: a retained certificate, by its SHA-256 or SHA-1."""

import asyncio
import re
from hashlib import sha256
from typing import Annotated, Final

import msgspec
import structlog
from msgspec import UNSET, Meta
from redis.asyncio import Redis

from certbus.errors import UNAVAILABLE
from certbus.ids import message_id
from certbus.keys import Keys
from certbus.streams.cert_index import StreamLocation, find_by_fingerprint, message_at
from certhttp.protocol import Request
from ctfilter import Filter, FilterError, holds
from gateway.delivery.filter_messages import certificate_of
from gateway.endpoints.latest import with_id
from gateway.endpoints.schemas import (
    PUBKEY,
    TBS,
    Base64,
    ChainCertificate,
    FullMessage,
    HexSha256,
    LeafCertificate,
    LiteMessage,
    MessageId,
    Source,
)
from gateway.endpoints.subscribe import named_filters
from gateway.http.errors import ErrorCode, error_response, filter_response, redis_unavailable
from gateway.http.messages import CORS_HEADERS, JSON, DeferredResponse, FilterRequest, Response
from gateway.hub import Hub

HASH: Final = "^({0}{{64}}|{0}{{40}}|({0}{{2}}:){{31}}{0}{{2}}|({0}{{2}}:){{19}}{0}{{2}})$".format(
    "[0-9A-Fa-f]"
)
"""A SHA-256 or SHA-1 in hex, with or without colons."""

_MAX_CONCURRENT: Final = 4  # a batch may unpack to megabytes
_TIMEOUT_SECS: Final = 2.0  # of a look-up

_ONLY_FULL: Final = Meta(description="Null if only the stream `lite` retains the certificate.")

log = structlog.get_logger(__name__)


class CertificateDetail(LeafCertificate, frozen=True, kw_only=True):
    """A certificate, and the log entry that it comes from."""

    seen: Annotated[float, Meta(description="When this service read it, Unix seconds.")]
    source: Annotated[str, Meta(description="The log's name.")]
    cert_index: int
    cert_link: str
    id: MessageId
    update_type: str
    submission_timestamp: Annotated[float, Meta(description="Time of the log, Unix seconds.")]
    log: Source
    as_der: Annotated[Base64 | None, _ONLY_FULL] = None
    tbs_sha256: Annotated[HexSha256 | None, TBS, _ONLY_FULL] = None
    pubkey_sha256: Annotated[HexSha256 | None, PUBKEY, _ONLY_FULL] = None
    chain: Annotated[list[ChainCertificate] | None, _ONLY_FULL] = None


class Certificates:
    """Finds certificates in Redis.

    Args:
        primary: has the index of all published certificates.
        replica: has the streams; may be the primary.
        keys: names of the keys.
        hub: has the named filters.
    """

    def __init__(self, primary: Redis, replica: Redis, keys: Keys, hub: Hub) -> None:
        self._hub = hub
        self._primary = primary
        self._replica = replica
        self._keys = keys
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)

    def respond(self, request: Request) -> Response | DeferredResponse:
        """Return the certificate with the hash at the end of the path."""
        text = request.path.rpartition("/")[2]
        if not re.fullmatch(HASH, text, re.ASCII):
            error = f"Invalid hash {text[:100]!r}; expected a SHA-256 or SHA-1 in hex"
            return error_response(ErrorCode.INVALID_HASH, error)
        digest = bytes.fromhex(text.replace(":", ""))
        try:
            given = self._hub.resolve(FilterRequest(named_filters(self._hub, request)))
        except FilterError as error:
            return filter_response(error)

        async def respond() -> Response:
            try:
                async with asyncio.timeout(_TIMEOUT_SECS), self._slots:
                    found = await self._find(digest, given)
            except (*UNAVAILABLE, TimeoutError):
                return redis_unavailable()
            except msgspec.ValidationError as error:
                log.error("unreadable message", hash=digest.hex(), error=str(error))
                return error_response(
                    ErrorCode.UNREADABLE_MESSAGE, "Stored message could not be decoded"
                )
            if found is None:
                text = f"No retained certificate has the hash {digest.hex()}"
                return error_response(ErrorCode.CERTIFICATE_NOT_FOUND, text)
            headers = (JSON, *CORS_HEADERS, ("Cache-Control", "private, max-age=300"))
            return Response(200, headers, msgspec.json.encode(found))

        return DeferredResponse(respond)

    async def _find(self, digest: bytes, given: Filter | None) -> CertificateDetail | None:
        """Return the certificate with a hash; None if it is not retained or does not pass."""
        location = await find_by_fingerprint(self._primary, self._keys, digest)
        if location is None:
            return None
        full = await self._message("full", location)
        if full is not None:
            if not await _passes(given, "full", full):
                return None
            message = msgspec.json.decode(full, type=FullMessage)
            return _detail(message, digest, message.data.chain)
        lite = await self._message("lite", location)
        if lite is not None and await _passes(given, "lite", lite):
            return _detail(msgspec.json.decode(lite, type=LiteMessage), digest)
        return None

    async def _message(self, stream: str, location: StreamLocation) -> bytes | None:
        """Read a message; from the primary where a replica is behind."""
        for client in {self._replica: None, self._primary: None}:
            text = await message_at(client, self._keys, stream, location)
            if text is not None:
                return with_id(message_id(location.entry, location.position), text)
        return None


async def _passes(given: Filter | None, stream: str, message: bytes) -> bool:
    """Whether a message passes a filter; a thread evaluates it, which may have 10,000 lines."""
    if given is None:
        return True
    certificate = certificate_of(stream, message)

    def evaluate() -> bool:
        return all(any(holds(line, certificate) for line in group) for group in given.groups)

    return await asyncio.to_thread(evaluate)


def _detail(
    message: FullMessage | LiteMessage, digest: bytes, chain: list[ChainCertificate] | None = None
) -> CertificateDetail | None:
    """Return the certificate of a message; None if its hash differs: the SHA-1 index has half."""
    data, leaf = message.data, message.data.leaf_cert
    if digest.hex(":").upper() not in (leaf.sha256, leaf.sha1) and not _is_issuance(leaf, digest):
        return None
    fields = msgspec.structs.asdict(leaf)
    return CertificateDetail(
        **{name: value for name, value in fields.items() if value is not UNSET},
        seen=data.seen,
        source=data.source.name,
        cert_index=data.cert_index,
        cert_link=data.cert_link,
        id=message.id,
        update_type=data.update_type,
        submission_timestamp=data.submission_timestamp,
        log=data.source,
        chain=chain,
    )


def _is_issuance(leaf: LeafCertificate, digest: bytes) -> bool:
    """Return whether a digest is a `tbs_sha256`, which has marks only with `dedup.by: issuance`.

    The mark of a SHA-256 is exact. Messages of lite do not have this one.
    """
    tbs = getattr(leaf, "tbs_sha256", UNSET)
    return len(digest) == sha256().digest_size and tbs in (UNSET, digest.hex())
