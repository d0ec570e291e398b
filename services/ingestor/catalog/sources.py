"""Getting log lists: from a URL or a file, with the signature they should have.

A list says which keys to trust, so one that should be signed and is not, or not by the right key,
is refused. Google's list also ships in the package (`ingestor/data`), verified when it was put
there, for a start without a network.

(Refreshing on a timer, and keeping the last good list in Redis, would belong here.)
"""

import base64
from importlib import resources
from pathlib import Path

import msgspec
import structlog

from certconf.settings import LogList as Setting
from ctparse.entry import Malformed
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

_log = structlog.get_logger()


class Lists(msgspec.Struct, frozen=True):
    """What came of reading the lists.

    Attributes:
        logs: the logs of every list that could be read, in the order of the lists.
        missing: lists that could not be read now and should be tried again.
    """

    logs: tuple[Log, ...]
    missing: tuple[Setting, ...]


def packaged(name: str) -> bytes:
    """A file of `ingestor/data`: log_list.json, log_list.sig or log_list_pubkey.pem."""
    return resources.files("ingestor").joinpath("data", name).read_bytes()


async def read_lists(settings: tuple[Setting, ...], fetcher: Fetcher) -> Lists:
    """Read every list; one that cannot be read is reported, and stands in for by nothing.

    Only Google's has a stand-in, the copy in the package.
    """
    logs: list[Log] = []
    missing = []
    for setting in settings:
        try:
            found = await _read(setting, fetcher)
        except (LogError, OSError, Malformed, BadSignature, ValueError) as error:
            missing.append(setting)
            if setting == GOOGLE:
                found = parse(packaged("log_list.json"))
                _log.warning(
                    "log list unavailable, using the copy in this package",
                    list=setting.url,
                    problem=str(error),
                    copy_version=found.version,
                    copy_made=found.timestamp,
                )
            else:
                _log.warning("log list unavailable", list=setting.url, problem=str(error))
                continue
        else:
            _log.info(
                "log list read", list=setting.url, version=found.version, logs=len(found.logs)
            )
        logs += found.logs
    return Lists(tuple(logs), tuple(missing))


async def _read(setting: Setting, fetcher: Fetcher) -> LogList:
    body = await _get(setting.url, fetcher, _MAX_LIST)
    if not setting.unsigned:
        if setting.signature_url is None:
            raise ValueError("no signature_url is configured for it, nor `unsigned: true`")
        signature = await _get(setting.signature_url, fetcher, _MAX_SIGNATURE)
        verify_log_list(body, signature, _pem(setting))
    return parse(body)


async def _get(place: str, fetcher: Fetcher, limit: int) -> bytes:
    """Read a URL or a file."""
    if place.startswith(("https://", "http://")):
        return await fetcher.get(place, limit)
    return Path(place.removeprefix("file://")).read_bytes()


def _pem(setting: Setting) -> bytes:
    """The PEM of a list's key: a file, or the base64 of a SubjectPublicKeyInfo."""
    if setting.key is None:
        return packaged("log_list_pubkey.pem")
    path = Path(setting.key)
    if path.exists():
        return path.read_bytes()
    der = base64.b64decode(setting.key)
    return b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(der) + b"-----END PUBLIC KEY-----\n"
