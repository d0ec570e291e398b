"""Getting log lists: from a URL or a file, with the signature they should have.

A list says which keys to trust, so one that should be signed and is not, or not by the right key,
is refused. Google's list also ships in the package (`ingestor/data`), verified when it was put
there, for a start without a network.

(Refreshing on a timer, and keeping the last good list in Redis, would belong here.)
"""

import asyncio
import base64
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import structlog

from certconf.settings import LogList as Setting
from ctparse.signatures import BadSignature, verify_log_list
from ingestor.catalog.log import Log
from ingestor.catalog.log_list import LogList, parse
from ingestor.ctclient.errors import LogError
from ingestor.ctclient.fetch import Fetcher

GOOGLE = Setting(
    url="https://www.gstatic.com/ct/log_list/v3/log_list.json",
    signature_url="https://www.gstatic.com/ct/log_list/v3/log_list.sig",
)
_MAX_LIST = 4 << 20
_MAX_SIGNATURE = 16 << 10

_log = structlog.get_logger(__name__)


def packaged(name: str) -> bytes:
    """A file of `ingestor/data`: log_list.json, log_list.sig or log_list_pubkey.pem."""
    return resources.files("ingestor").joinpath("data", name).read_bytes()


class Lists:
    """The configured lists, as far as they could be read.

    Args:
        settings: where they are.
        fetcher: reads URLs.
    """

    def __init__(self, settings: Sequence[Setting], fetcher: Fetcher) -> None:
        self._settings = settings
        self._fetcher = fetcher
        self._read: dict[str, LogList] = {}
        self._missed: set[str] = set()  # reported missing

    @property
    def complete(self) -> bool:
        """Whether every list has been read."""
        return all(setting.url in self._read for setting in self._settings)

    def logs(self) -> list[Log]:
        """Logs of every list, in the order of the lists; of Google's at least the packaged copy."""
        logs: list[Log] = []
        for setting in self._settings:
            found = self._read.get(setting.url)
            if found is None and setting == GOOGLE:
                found = parse(packaged("log_list.json"))
            if found is not None:
                logs += found.logs
        return logs

    async def read_missing(self) -> None:
        """Read the lists that have not been read yet; says once of each that it cannot be."""
        for setting in self._settings:
            if setting.url in self._read:
                continue
            try:
                found = await self._get(setting)
            except (LogError, OSError, BadSignature, ValueError) as error:
                self._report_missing(setting, str(error))
                continue
            self._read[setting.url] = found
            _log.info(
                "log list read", list=setting.url, version=found.version, logs=len(found.logs)
            )

    async def _get(self, setting: Setting) -> LogList:
        body = await self._bytes(setting.url, _MAX_LIST)
        if not setting.unsigned:
            if setting.signature_url is None:
                raise ValueError("it has neither signature_url nor `unsigned: true`")
            signature = await self._bytes(setting.signature_url, _MAX_SIGNATURE)
            verify_log_list(body, signature, _pem(setting))
        return parse(body)

    async def _bytes(self, place: str, limit: int) -> bytes:
        """Read a URL or a file."""
        if place.startswith(("https://", "http://")):
            return await self._fetcher.get(place, limit)
        return await asyncio.to_thread(Path(place.removeprefix("file://")).read_bytes)

    def _report_missing(self, setting: Setting, problem: str) -> None:
        if setting.url in self._missed:
            return
        self._missed.add(setting.url)
        if setting != GOOGLE:
            _log.warning("log list unavailable, trying again", list=setting.url, problem=problem)
            return
        copy = parse(packaged("log_list.json"))
        _log.warning(
            "log list unavailable, using the copy in this package until it is",
            list=setting.url,
            problem=problem,
            copy_version=copy.version,
            copy_made=copy.timestamp,
        )


def _pem(setting: Setting) -> bytes:
    """The PEM of a list's key: a file, or the base64 of a SubjectPublicKeyInfo."""
    if setting.key is None:
        return packaged("log_list_pubkey.pem")
    path = Path(setting.key)
    if path.exists():
        return path.read_bytes()
    der = base64.b64decode(setting.key)
    return b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(der) + b"-----END PUBLIC KEY-----\n"
