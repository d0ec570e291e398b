"""`python -m launcher.healthcheck`: whether the server of this container answers.

A module of its own beside the commands: it runs every few seconds in every container, and the
commands' imports would cost it half a second each time.
"""

import http.client
import os
import ssl
import sys
from collections.abc import Iterator, Mapping
from typing import Final

from certconf import Config, ConfigError, load

_PATIENCE: Final = 4.0  # seconds
#: Addresses that mean "every interface", and where to reach them from here.
_HERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def main(environ: Mapping[str, str]) -> int:
    """Ask for /health at the admin address, or where clients connect if nobody listens there.

    Args:
        environ: the server's variables.

    Returns:
        0 if it answers that it is healthy; else 1, after a line that says what is wrong.
    """
    try:
        config = load(None, environ, {})
    except ConfigError as error:
        print("the configuration cannot be used:", *error.problems, file=sys.stderr)
        return 1
    tried = []
    for connection in _connections(config):
        where = f"{connection.host}:{connection.port}"
        try:
            status = _ask(connection)
        except ConnectionRefusedError:
            tried.append(where)
        except (OSError, http.client.HTTPException) as error:
            print(f"{where} does not answer: {error or type(error).__name__}", file=sys.stderr)
            return 1
        else:
            # With protocols.health off there is nothing at /health; who says so is there.
            healthy = status in {200, 404}
            print(f"{where} answers {status}", file=sys.stdout if healthy else sys.stderr)
            return 0 if healthy else 1
    print(f"nobody listens at {' or '.join(tried)}", file=sys.stderr)
    return 1


def _connections(config: Config) -> Iterator[http.client.HTTPConnection]:
    host, _, port = (config.admin or "").rpartition(":")
    if port.isdecimal():  # else it is a unix socket, or none
        yield http.client.HTTPConnection(_here(host), int(port), timeout=_PATIENCE)
    if config.tls_cert is None:
        yield http.client.HTTPConnection(_here(config.host), config.port, timeout=_PATIENCE)
    else:  # the certificate names what clients call it, not this address
        trusting = ssl._create_unverified_context()  # noqa: S323, SLF001
        yield http.client.HTTPSConnection(
            _here(config.host), config.port, timeout=_PATIENCE, context=trusting
        )


def _here(host: str) -> str:
    host = host.strip("[]")
    return _HERE.get(host, host)


def _ask(connection: http.client.HTTPConnection) -> int:
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(os.environ))
