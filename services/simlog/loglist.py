"""How clients learn of a world: a signed log list, and a configuration that follows its logs."""

from base64 import b64encode
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import cached_property

import msgspec
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from simlog.chance import draw
from simlog.log import ECDSA, Log, Shown
from simlog.static_ct import origin
from simlog.world import World


class LogList:
    """The log list of a world that is served at `url` (no trailing slash).

    Version 3 of the schema of https://www.gstatic.com/ct/log_list/v3/log_list_schema.json, with a
    detached signature as Google's has one; by an ECDSA key, because that can be had from a seed.
    """

    def __init__(self, world: World, url: str) -> None:
        self._world = world
        self._url = url
        secret = int.from_bytes(draw(world.spec.seed, "log list key", 0, 31))
        self._key = ec.derive_private_key(secret, ec.SECP256R1())

    @cached_property
    def json(self) -> bytes:
        """The list."""
        operators: defaultdict[str, dict[str, list[object]]] = defaultdict(
            lambda: {"logs": [], "tiled_logs": []}
        )
        for log in self._world.logs.values():
            lists = operators[log.spec.operator]
            lists["logs" if log.spec.kind == "rfc6962" else "tiled_logs"].append(self._log(log))
        content = {
            "version": "1.0",
            "log_list_timestamp": _rfc3339(self._start),
            "operators": [
                {"name": name, "email": [_email(name)], **lists}
                for name, lists in operators.items()
            ],
        }
        return msgspec.json.format(msgspec.json.encode(content), indent=2)

    @cached_property
    def signature(self) -> bytes:
        """The detached signature over `json`."""
        return self._key.sign(self.json, ECDSA)

    @cached_property
    def public_key(self) -> bytes:
        """The key that verifies it, PEM."""
        public = self._key.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @cached_property
    def config(self) -> bytes:
        """A config.yaml for a server that follows exactly the logs of this world."""
        logs = self._world.logs.values()
        custom = [self._configured(log) for log in logs if log.spec.kind == "rfc6962"]
        static = [
            {**self._configured(log), "log_origin": origin(log.spec)}
            for log in logs
            if log.spec.kind == "static-ct"
        ]
        content = {"log_lists": [], "custom_logs": custom, "static_logs": static}
        return yaml.safe_dump(content, sort_keys=False).encode()

    def url_of(self, log: Shown) -> str:
        """Where a log is read: its URL, or its monitoring prefix."""
        return f"{self._url}/{log.spec.name}/"

    def _configured(self, log: Log) -> dict[str, str]:
        key = b64encode(log.key.public).decode()
        return {"name": log.spec.name, "url": self.url_of(log), "key": key}

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
        return {
            "description": log.spec.name,
            "log_id": b64encode(log.key.log_id).decode(),
            "key": b64encode(log.key.public).decode(),
            **where,
            "mmd": self._world.spec.merge_delay(log.spec.kind),
            "state": {"usable": {"timestamp": _rfc3339(self._start - year)}},
            "temporal_interval": {
                "start_inclusive": _rfc3339(self._start - year),
                "end_exclusive": _rfc3339(self._start + 2 * year),
            },
        }

    @property
    def _start(self) -> datetime:
        return datetime.fromtimestamp(int(self._world.spec.start), UTC)


def _email(operator: str) -> str:
    return f"{operator.lower().replace(' ', '-')}@simlog.test"


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
