"""The signed log list of a world, and a configuration that follows its logs."""

from base64 import b64encode
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from itertools import chain, repeat
from typing import Annotated, Literal

import msgspec
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Meta

from simlog.ctlog.log import ECDSA, Log, LogKey, ServedLog
from simlog.ctlog.static_ct import origin
from simlog.http_server import Refused, Response
from simlog.seeded import choose
from simlog.world import World


class Edition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of a list, with its faults.

    Attributes:
        number: seconds by which the list is dated after the world's time zero.
        states: log -> its state; default: `usable`.
        left_out: logs that it does not name.
        rekeyed: logs that it lists with another key.
        unreadable: number of malformed entries.
        lie: the body differs from what was signed (`changed`, `truncated`), the signature is
            missing (`unsigned`) or by another key (`forged`), or the list is not available
            (`unavailable`) or endless (`endless`).
    """

    number: Annotated[int, Meta(ge=0)] = 0
    states: dict[str, str] = {}
    left_out: tuple[str, ...] = ()
    rekeyed: tuple[str, ...] = ()
    unreadable: Annotated[int, Meta(ge=0)] = 0
    lie: Literal["changed", "truncated", "unsigned", "forged", "unavailable", "endless"] | None = (
        None
    )


class LogList:
    """The log list of a world that is served at `url` (no trailing slash).

    Version 3 of the schema of https://www.gstatic.com/ct/log_list/v3/log_list_schema.json, with a
    detached signature like Google's; by an ECDSA key, because a seed determines that.
    Or like Apple's: numbered instead of dated, and not signed.

    Attributes:
        edition: its present version.
    """

    def __init__(self, world: World, url: str, *, signed: bool = True) -> None:
        self.edition = Edition()
        self._world = world
        self._url = url
        self._signed = signed
        self._key = _key(world.spec.seed, "log list key")

    @property
    def json(self) -> bytes:
        """The list."""
        edition = self.edition
        operators: defaultdict[str, dict[str, list[object]]] = defaultdict(
            lambda: {"logs": [], "tiled_logs": []}
        )
        for log in self._world.logs.values():
            if log.spec.name not in edition.left_out:
                lists = operators[log.spec.operator]
                lists["logs" if log.spec.kind == "rfc6962" else "tiled_logs"].append(self._log(log))
        for lists in list(operators.values())[:1]:
            lists["logs"] += [{"description": "no log"}] * edition.unreadable
        dated = {"log_list_timestamp": _rfc3339(self._start + timedelta(seconds=edition.number))}
        content = {
            "version": f"1.{edition.number}" if self._signed else str(edition.number),
            **(dated if self._signed else {"assetVersion": 1, "assetVersionV2": edition.number}),
            "operators": [
                {"name": name, "email": [_email(name)], **lists}
                for name, lists in operators.items()
            ],
        }
        return msgspec.json.format(msgspec.json.encode(content), indent=2)

    @property
    def signature(self) -> bytes:
        """The detached signature over `json`."""
        forged = self.edition.lie == "forged"
        key = _key(self._world.spec.seed, "another list key") if forged else self._key
        return key.sign(self.json, ECDSA)

    @cached_property
    def public_key(self) -> bytes:
        """The key that verifies it, PEM."""
        public = self._key.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def serve(self, known: str = "") -> Response:
        """Answer a request for the list.

        Args:
            known: the If-None-Match of the request.

        Raises:
            Refused: it is not available.
        """
        body = self.json
        match self.edition.lie:
            case "unavailable":
                raise Refused(503, "the log list is not available")
            case "changed":
                body = body.replace(b'"mmd"', b'"mmD"', 1)
            case "truncated":
                body = body[: len(body) // 2]
            case "endless":
                return Response(chain((body,), repeat(b" " * 65_536)), "application/json")
        etag = f'"{sha256(body).hexdigest()[:16]}"'
        if known == etag:
            return Response(b"", status=304, headers=(("etag", etag),))
        return Response(body, "application/json", headers=(("etag", etag),))

    def serve_signature(self) -> Response:
        """Answer a request for the signature.

        Raises:
            Refused: it is not available.
        """
        if self.edition.lie in ("unavailable", "unsigned"):
            raise Refused(404, "the log list has no signature")
        return Response(self.signature, "application/octet-stream")

    @cached_property
    def config(self) -> bytes:
        """A config.yaml for a server that follows exactly the logs of this world, at any rate."""
        logs = self._world.logs.values()
        custom = [
            self._configured(log)
            for log in logs
            if log.spec.kind == "rfc6962" and log.spec.data_tiles == "none"
        ]
        static = [
            {**self._configured(log), "log_origin": origin(log.spec)}
            for log in logs
            if log.spec.kind == "static-ct"
        ]
        static += [
            {**self._configured(log), "tree_size_source": "get_sth"}
            for log in logs
            if log.spec.data_tiles != "none"
        ]
        content = {
            "log_lists": [],
            "custom_logs": custom,
            "static_logs": static,
            "ct_log": {"default_operator_rate_limit_ms": 0, "operator_rate_limits": {}},
        }
        return yaml.safe_dump(content, sort_keys=False).encode()

    def url_of(self, log: ServedLog) -> str:
        """Where a log is read: its URL, or its monitoring prefix."""
        return f"{self._url}/{log.spec.name}/"

    def _configured(self, log: Log) -> dict[str, str]:
        key = b64encode(log.key.public).decode()
        url, operator = self.url_of(log), log.spec.operator
        return {"name": log.spec.name, "url": url, "operator": operator, "key": key}

    def _log(self, log: Log) -> dict[str, object]:
        year = timedelta(days=365)
        rfc6962 = log.spec.kind == "rfc6962"
        where = (
            {"url": self.url_of(log)}
            if rfc6962
            else {
                "submission_url": f"https://{origin(log.spec)}/",
                "monitoring_url": self.url_of(log),
            }
        )
        key = log.key
        if log.spec.name in self.edition.rekeyed:
            key = LogKey(self._world.spec.seed, f"another key of {log.spec.name}")
        state = self.edition.states.get(log.spec.name, "usable")
        return {
            "description": log.spec.name,
            "log_id": b64encode(key.log_id).decode(),
            "key": b64encode(key.public).decode(),
            **where,
            "mmd": self._world.spec.merge_delay(log.spec.kind),
            "state": {state: {"timestamp": _rfc3339(self._start - year)}},
            "temporal_interval": {
                "start_inclusive": _rfc3339(self._start - year),
                "end_exclusive": _rfc3339(self._start + 2 * year),
            },
        }

    @property
    def _start(self) -> datetime:
        return datetime.fromtimestamp(int(self._world.spec.start), UTC)


def _key(seed: int, label: str) -> ec.EllipticCurvePrivateKey:
    secret = int.from_bytes(choose(seed, label, 0, 31))
    return ec.derive_private_key(secret, ec.SECP256R1())


def _email(operator: str) -> str:
    return f"{operator.lower().replace(' ', '-')}@simlog.test"


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
