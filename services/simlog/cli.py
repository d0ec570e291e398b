"""The command line of simlog, mounted by `certstream-server simlog` and `python -m simlog`."""

import argparse
import asyncio
import signal
import time

import uvloop

from simlog.app import serve
from simlog.spec import Spec, spread

DESCRIPTION = """\
Serve simulated Certificate Transparency logs: real keys, trees and proofs, certificates made up
from a seed. Point a server at them with CERTSTREAM_CONFIG set to a copy of /config.yaml, or with
the signed log list at /log_list.json.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    where.add_argument("--port", type=int, default=8090, help="0 takes a free one (%(default)s)")
    where.add_argument("--url", help="what clients call this server, if not http://HOST:PORT")
    world = parser.add_argument_group("the world")
    world.add_argument("--seed", type=int, default=0, help="same seed, same logs (%(default)s)")
    world.add_argument("--rfc6962", type=int, default=2, metavar="N", help="logs (%(default)s)")
    world.add_argument("--static-ct", type=int, default=2, metavar="N", help="logs (%(default)s)")
    world.add_argument("--operators", type=int, default=2, metavar="N", help="(%(default)s)")
    world.add_argument(
        "--rate", type=float, default=20.0, help="new certificates a second (%(default)s)"
    )
    world.add_argument(
        "--preload", type=int, default=0, metavar="N", help="certificates there at the start"
    )
    world.add_argument(
        "--total", type=int, metavar="N", help="stop after so many certificates (never)"
    )
    world.add_argument(
        "--duplicates",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="share of entries that repeat another log's certificate (%(default)s)",
    )
    world.add_argument(
        "--interval",
        type=float,
        default=0.2,
        metavar="SECONDS",
        help="between tree heads (%(default)s)",
    )
    world.add_argument(
        "--delay",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="from an entry to its tree head (%(default)s)",
    )
    world.add_argument(
        "--max-entries", type=int, default=256, metavar="N", help="per get-entries (%(default)s)"
    )
    world.add_argument(
        "--start",
        type=float,
        metavar="UNIXTIME",
        help="the world's time zero; name it to serve the same world again after a restart (now)",
    )


def spec_from_args(arguments: argparse.Namespace) -> Spec:
    """Build the world's specification.

    Raises:
        ValueError: an option is out of its range; says which.
    """
    return Spec(
        logs=spread(arguments.rfc6962, arguments.static_ct, arguments.operators),
        start=time.time() if arguments.start is None else arguments.start,
        seed=arguments.seed,
        rate=arguments.rate,
        preload=arguments.preload,
        total=arguments.total,
        duplicates=arguments.duplicates,
        interval=arguments.interval,
        delay=arguments.delay,
        max_entries=arguments.max_entries,
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    spec = spec_from_args(arguments)

    async def until_signal() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(spec, arguments.host, arguments.port, stop, public_url=arguments.url)

    uvloop.run(until_signal())
    return 0


def main() -> int:
    """The command `python -m simlog`."""
    parser = argparse.ArgumentParser(
        "simlog", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    arguments = parser.parse_args()
    try:
        return run(arguments)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot listen on {arguments.host}:{arguments.port}: {error.strerror}")
