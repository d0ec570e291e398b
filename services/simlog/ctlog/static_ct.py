"""The endpoints of a static-ct log: checkpoint, tiles, issuers (c2sp.org/static-ct-api).

Laid out as Sunlight, the software behind several production logs, does it: data tiles are always
gzip, checkpoints carry other signature lines beside the one of RFC 6962.
"""

import gzip
import re
from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from simlog.ctlog.log import Entry, ServedLog, opaque
from simlog.ctlog.tree import TILE
from simlog.http_server import Refused, Response
from simlog.seeded import choose
from simlog.spec import LogSpec, Spec

SUBMISSION_HOST = "simlog.test"
"""Origins do not depend on where a world is served: they are the logs' submission prefixes."""

ED25519 = b"\1"
COSIGNATURE = b"\4"
RFC6962_NOTE_SIGNATURE = b"\5"

IMMUTABLE = ("cache-control", "public, max-age=604800, immutable")
TILE_PATH = re.compile(
    r"tile/(data|[0-5])/((?:x\d{3}/)*\d{3})(?:\.p/([1-9]\d?|1\d\d|2[0-4]\d|25[0-5]))?", re.ASCII
)
MAX_CACHED_DATA_TILES = 256


class NamedTile(msgspec.Struct, frozen=True):
    """A tile as a path names it.

    Attributes:
        level: "data", or the level of hashes.
        n: its index in the level.
        width: its entries or hashes.
    """

    level: str
    n: int
    width: int

    @property
    def leaves_each(self) -> int:
        """Leaves of the tree under each entry or hash."""
        return 1 if self.level == "data" else TILE ** int(self.level)

    def exists(self, size: int) -> bool:
        """Whether a log of `size` entries has it."""
        return self.width <= min(size // self.leaves_each - self.n * TILE, TILE)


class StaticLog:
    """The static-ct face of a log.

    `respond` takes the log to show each time, because a log with faults shows changing views.
    """

    def __init__(self, log: LogSpec, spec: Spec, issuers: Iterable[bytes]) -> None:
        seed = spec.seed
        self._issuers = {sha256(issuer).hexdigest(): issuer for issuer in issuers}
        self._own = _NoteKey(seed, origin(log), ED25519)
        self._witness = _NoteKey(seed, "witness.simlog.test/w1", COSIGNATURE)
        self._grease = choose(seed, "grease", 0, 64)
        self._full_data_tile = lru_cache(maxsize=MAX_CACHED_DATA_TILES)(_data_tile)
        self._merge_delay = spec.merge_delay(log.kind)

    def respond(self, log: ServedLog, path: str, monitoring_url: str) -> Response:
        """Answer a request below the monitoring prefix.

        Raises:
            Refused: 404 for an unknown path.
        """
        if path == "checkpoint":
            return Response(self.checkpoint(log), headers=(("cache-control", "no-store"),))
        if path == "log.v3.json":
            about = describe(log, monitoring_url, self._merge_delay)
            return Response(msgspec.json.encode(about), "application/json")
        if path.startswith("issuer/") and (issuer := self._issuers.get(path[7:])):
            return Response(issuer, "application/pkix-cert", headers=(IMMUTABLE,))
        if tile := named_tile(path):
            return self._tile(log, tile)
        raise Refused(404, f"no /{path} in a static-ct log of {log.head.size} entries")

    def full_data_tile(self, log: ServedLog, path: str) -> Response | None:
        """Answer with a full data tile or an issuer, or return None for any other path.

        Some RFC 6962 logs serve these beside their own API, and nothing else of static-ct.

        Raises:
            Refused: 404 for a tile that the tree does not fill yet.
        """
        if path.startswith("issuer/") and (issuer := self._issuers.get(path[7:])):
            return Response(issuer, "application/pkix-cert", headers=(IMMUTABLE,))
        tile = named_tile(path)
        is_full = tile is not None and tile.level == "data" and tile.width == TILE
        return self._tile(log, tile) if tile is not None and is_full else None

    def checkpoint(self, log: ServedLog) -> bytes:
        """The newest tree head as a signed note (c2sp.org/tlog-checkpoint)."""
        head, name = log.head, origin(log.spec)
        text = f"{name}\n{head.size}\n{b64encode(head.root).decode()}\n"
        seconds = head.timestamp // 1000
        cosigned = f"cosignature/v1\ntime {seconds}\n{text}"
        tree_head = key_id(name, RFC6962_NOTE_SIGNATURE, log.key.log_id)
        lines = (
            _signature_line("grease.invalid", self._grease),
            _signature_line(name, self._own.key_id + self._own.sign(text)),
            _signature_line(name, tree_head + head.timestamp.to_bytes(8) + head.signature),
            _signature_line(
                self._witness.name,
                self._witness.key_id + seconds.to_bytes(8) + self._witness.sign(cosigned),
            ),
        )
        return f"{text}\n{''.join(lines)}".encode()

    def _tile(self, log: ServedLog, tile: NamedTile) -> Response:
        level, n, width = tile.level, tile.n, tile.width
        if not tile.exists(log.head.size):
            raise Refused(404, f"tile {level}/{n} of width {width}: the tree is too small")
        if level != "data":
            body = log.tree.tile(int(level), n, width)
            return Response(body, "application/octet-stream", headers=(IMMUTABLE,))
        make = self._full_data_tile if width == TILE else _data_tile
        headers = (("content-encoding", "gzip"), IMMUTABLE)
        body = make(log, n, width)
        answer = Response(body, "application/octet-stream", headers=headers)
        return replace(answer, entries=width, first=n * TILE)


def _data_tile(log: ServedLog, n: int, width: int) -> bytes:
    entries = (log.entry(n * TILE + at) for at in range(width))
    return gzip.compress(b"".join(map(tile_leaf, entries)), compresslevel=1, mtime=0)


class _NoteKey:
    """An Ed25519 key that signs notes or cosigns them, from the seed."""

    def __init__(self, seed: int, name: str, signature_type: bytes) -> None:
        self.name = name
        self._private = Ed25519PrivateKey.from_private_bytes(
            choose(seed, f"note key {name}", 0, 32)
        )
        public = self._private.public_key().public_bytes_raw()
        self.key_id = key_id(name, signature_type, public)

    def sign(self, text: str) -> bytes:
        return self._private.sign(text.encode())


def origin(log: LogSpec) -> str:
    """The submission prefix without its scheme, which names the log in its checkpoints."""
    return f"{SUBMISSION_HOST}/{log.name}"


def dropped_partial(path: str, size: int) -> Response | None:
    """Return the 404 of a partial tile that a log of `size` entries has as a full one, or None."""
    tile = named_tile(path)
    if tile is None or tile.width == TILE or not replace(tile, width=TILE).exists(size):
        return None
    return Refused(404, f"no /{path}: the full tile is there").response


def named_tile(path: str) -> NamedTile | None:
    """Parse the path of a tile; None if it is no canonical tile path."""
    if not (match := TILE_PATH.fullmatch(path)):
        return None
    level, index, width = match.groups()
    n = int(index.replace("/", "").replace("x", ""))
    return NamedTile(level, n, int(width or TILE)) if index == tile_index(n) else None


def describe(log: ServedLog, monitoring_url: str, merge_delay: int) -> dict[str, object]:
    """What Sunlight serves as log.v3.json."""
    return {
        "description": origin(log.spec),
        "submission_url": f"https://{origin(log.spec)}/",
        "monitoring_url": monitoring_url,
        "log_id": b64encode(log.key.log_id).decode(),
        "key": b64encode(log.key.public).decode(),
        "mmd": merge_delay,
        "log_spec": "static-ct-api",
    }


def tile_leaf(entry: Entry) -> bytes:
    """The TileLeaf of an entry."""
    certificate = entry.certificate
    submitted = opaque(3, certificate.der) if certificate.is_precert else b""
    return entry.tiled + submitted + _fingerprints(certificate.issuer.chain)


def tile_index(n: int) -> str:
    """A tile's index in groups of three digits, as in x001/x234/067."""
    digits = str(n)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    return "/".join([f"x{group}" for group in groups[:-1]] + groups[-1:])


def key_id(name: str, signature_type: bytes, public: bytes) -> bytes:
    """Which key made a signature line (c2sp.org/signed-note)."""
    return sha256(name.encode() + b"\n" + signature_type + public).digest()[:4]


def _signature_line(name: str, signature: bytes) -> str:
    return f"— {name} {b64encode(signature).decode()}\n"


@lru_cache(maxsize=64)
def _fingerprints(chain: tuple[bytes, ...]) -> bytes:
    return opaque(2, b"".join(sha256(certificate).digest() for certificate in chain))
