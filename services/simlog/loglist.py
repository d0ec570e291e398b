"""How clients learn of a world: a signed log list, and a configuration that follows its logs."""

from base64 import b64encode
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import count
from math import gcd, prod

import msgspec
import yaml
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from simlog.chance import draw
from simlog.log import Log
from simlog.static_ct import origin
from simlog.world import World

MMD_RFC6962 = 86_400
MMD_STATIC = 60


class LogList:
    """The log list of a world that is served at `url` (no trailing slash).

    Version 3 of the schema of https://www.gstatic.com/ct/log_list/v3/log_list_schema.json, signed
    as Google signs its own: RSA with PKCS #1 v1.5 and SHA-256, detached.
    """

    def __init__(self, world: World, url: str) -> None:
        self._world = world
        self._url = url

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
        return self._key.sign(self.json, padding.PKCS1v15(), SHA256())

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
            {**self._configured(log), "log_origin": origin(log)}
            for log in logs
            if log.spec.kind == "static-ct"
        ]
        content = {"log_lists": [], "custom_logs": custom, "static_logs": static}
        return yaml.safe_dump(content, sort_keys=False).encode()

    def url_of(self, log: Log) -> str:
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
            else {"submission_url": f"https://{origin(log)}/", "monitoring_url": self.url_of(log)}
        )
        return {
            "description": log.spec.name,
            "log_id": b64encode(log.key.log_id).decode(),
            "key": b64encode(log.key.public).decode(),
            **where,
            "mmd": MMD_RFC6962 if rfc6962 else MMD_STATIC,
            "state": {"usable": {"timestamp": _rfc3339(self._start - year)}},
            "temporal_interval": {
                "start_inclusive": _rfc3339(self._start - year),
                "end_exclusive": _rfc3339(self._start + 2 * year),
            },
        }

    @property
    def _start(self) -> datetime:
        return datetime.fromtimestamp(int(self._world.spec.start), UTC)

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        """An RSA key from the seed; takes some tenths of a second, so only when it is needed."""
        seed, exponent = self._world.spec.seed, 65537
        p, q = _prime(seed, "log list p"), _prime(seed, "log list q")
        d = rsa.rsa_recover_private_exponent(exponent, p, q)
        return rsa.RSAPrivateNumbers(
            p,
            q,
            d,
            rsa.rsa_crt_dmp1(d, p),
            rsa.rsa_crt_dmq1(d, q),
            rsa.rsa_crt_iqmp(p, q),
            rsa.RSAPublicNumbers(exponent, p * q),
        ).private_key()


def _prime(seed: int, label: str) -> int:
    """A prime of 1024 bits. A Fermat test is enough for numbers that nobody chose."""
    small = prod(number for number in range(3, 2000, 2))
    for attempt in count():
        candidate = int.from_bytes(draw(seed, label, attempt, 128)) | 3 << 1022 | 1
        if gcd(candidate, small) == 1 and pow(2, candidate - 1, candidate) == 1:
            return candidate
    raise AssertionError("there is always another prime")


def _email(operator: str) -> str:
    return f"{operator.lower().replace(' ', '-')}@simlog.test"


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
