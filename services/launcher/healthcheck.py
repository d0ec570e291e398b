"""`python -m launcher.healthcheck`: check that the server of this container answers.

Not a subcommand: it runs every few seconds in every container, and the imports of the commands
would cost half a second each time.
"""

import http.client
import os
import ssl
import sys
from collections.abc import Iterator, Mapping
from typing import Final

from certconf import Config, ConfigError, load

_TIMEOUT_SECS: Final = 4.0
#: Addresses that mean "every interface" -> a loopback address. A socket at `::` accepts IPv4, too,
#: and a container without IPv6 has no ::1.
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}  # noqa: S104


def main(environ: Mapping[str, str]) -> int:
    """Request /health at the admin address, or at the address for clients if that is not served.

    Args:
        environ: the environment of the server.

    Returns:
        0 if the server is healthy; else 1, after a line with the reason.
    """
    try:
        config = load(None, environ, {})
    except ConfigError as error:
        print("the configuration cannot be used:", *error.problems, file=sys.stderr)
        return 1
    refused = []
    for connection in _connections(config):
        address = f"{connection.host}:{connection.port}"
        try:
            status = _request(connection)
        except ConnectionRefusedError:
            refused.append(address)
        except (OSError, http.client.HTTPException) as error:
            print(f"{address} does not answer: {error or type(error).__name__}", file=sys.stderr)
            return 1
        else:
            # With protocols.health off, /health is not found: the server answers.
            healthy = status in {200, 404}
            print(f"{address} answers {status}", file=sys.stdout if healthy else sys.stderr)
            return 0 if healthy else 1
    print(f"no server listens on {' or '.join(refused)}", file=sys.stderr)
    return 1


def _connections(config: Config) -> Iterator[http.client.HTTPConnection]:
    host, _, port = (config.admin or "").rpartition(":")
    if port.isdecimal():  # else it is a unix socket, or not set
        yield http.client.HTTPConnection(_reachable(host), int(port), timeout=_TIMEOUT_SECS)
    if config.tls_cert is None:
        yield http.client.HTTPConnection(
            _reachable(config.host), config.port, timeout=_TIMEOUT_SECS
        )
    else:  # the certificate has the name for clients, not this address
        unverified = ssl._create_unverified_context()  # noqa: S323, SLF001
        yield http.client.HTTPSConnection(
            _reachable(config.host), config.port, timeout=_TIMEOUT_SECS, context=unverified
        )


def _reachable(host: str) -> str:
    host = host.strip("[]")
    return _LOOPBACK.get(host, host)


def _request(connection: http.client.HTTPConnection) -> int:
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(os.environ))
