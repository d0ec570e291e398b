"""The command line of simlog, mounted by `certstream-server simlog` and `python -m simlog`."""

import argparse
import asyncio
import fnmatch
import signal
import textwrap
import time
from collections.abc import Sequence

import msgspec
import uvloop

from simlog import fault_types
from simlog.app import serve
from simlog.field.operators import field_spec
from simlog.spec import LogSpec, Spec, spread

DESCRIPTION = """\
Serve simulated Certificate Transparency logs: real keys, trees and proofs, certificates generated
from a seed. Point a server at them with CERTSTREAM_CONFIG set to a copy of /config.yaml, or with
the signed log list at /log_list.json.
"""

FAULTS = f"""\
A fault is in force in its time, and hits its share of the requests to one part of the log:
  since=0,until=,since_size=0,until_size=,share=1.0,only=head|entries|proofs|issuers
seconds since the world's time zero, entries of the log. Kinds, with their own values:
{textwrap.indent(chr(10).join(fault_types.described()), "  ")}
While it runs, all but malformed: PUT, POST, DELETE /control/LOG/faults, with JSON such as
  {{"kind": "latency", "seconds": 2, "only": "head"}}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    where.add_argument("--port", type=int, default=8090, help="0 selects a free port (%(default)s)")
    where.add_argument("--url", help="URL of this server for clients, if not http://HOST:PORT")
    world = parser.add_argument_group("the world")
    world.add_argument("--seed", type=int, default=0, help="same seed, same logs (%(default)s)")
    world.add_argument("--rfc6962", type=int, default=2, metavar="N", help="logs (%(default)s)")
    world.add_argument("--static-ct", type=int, default=2, metavar="N", help="logs (%(default)s)")
    world.add_argument(
        "--hybrid",
        type=int,
        default=0,
        metavar="N",
        help="RFC 6962 logs that also serve full data tiles, without and with another leaf (0)",
    )
    world.add_argument("--operators", type=int, default=2, metavar="N", help="(%(default)s)")
    world.add_argument(
        "--rate",
        type=float,
        help="new certificates a second (20); with --field entries a second (as measured)",
    )
    world.add_argument(
        "--preload", type=int, default=0, metavar="N", help="certificates in the logs at the start"
    )
    world.add_argument("--total", type=int, metavar="N", help="stop after N certificates (never)")
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
        help="the world's time zero; set it to serve the same world again after a restart (now)",
    )
    world.add_argument(
        "--mmd",
        type=int,
        metavar="SECONDS",
        help="maximum merge delay in the log list (86400 for RFC 6962, 60 for static-ct)",
    )
    world.add_argument(
        "--field",
        action="store_true",
        help="28 logs that grow, answer and limit rates like the public ones; --rate scales them",
    )
    world.add_argument(
        "--operator",
        action="append",
        default=[],
        metavar="NAME",
        help="with --field, only the logs of this operator; can be repeated",
    )
    wrong = parser.add_argument_group("faults", FAULTS)
    wrong.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="LOG:KIND[:NAME=VALUE,...]",
        help="a fault of one log, or of all whose names match a pattern; can be repeated",
    )
    wrong.add_argument(
        "--troubles",
        type=float,
        metavar="SECONDS",
        help="every fault that a log recovers from in turn, SECONDS each, on a third of the logs",
    )


def spec_from_args(arguments: argparse.Namespace) -> Spec:
    """Build the world's specification.

    Raises:
        ValueError: an option is out of its range; names it.
    """
    start = time.time() if arguments.start is None else arguments.start
    if arguments.field:
        spec = field_spec(
            start,
            arguments.seed,
            rate=arguments.rate,
            preload=arguments.preload,
            operators=arguments.operator,
        )
        given = [fault_types.parse(text) for text in arguments.fault]
        return msgspec.structs.replace(
            spec, logs=_with_faults(spec.logs, given, arguments.troubles), total=arguments.total
        )
    return Spec(
        logs=_with_faults(
            spread(arguments.rfc6962, arguments.static_ct, arguments.operators, arguments.hybrid),
            [fault_types.parse(text) for text in arguments.fault],
            arguments.troubles,
        ),
        start=start,
        seed=arguments.seed,
        rate=20.0 if arguments.rate is None else arguments.rate,
        preload=arguments.preload,
        total=arguments.total,
        duplicates=arguments.duplicates,
        interval=arguments.interval,
        delay=arguments.delay,
        max_entries=arguments.max_entries,
        mmd=arguments.mmd,
    )


def _with_faults(
    logs: tuple[LogSpec, ...],
    wrong: Sequence[tuple[str, fault_types.AnyFault]],
    troubles: float | None,
) -> tuple[LogSpec, ...]:
    for pattern, _ in wrong:
        if not fnmatch.filter([log.name for log in logs], pattern):
            names = ", ".join(log.name for log in logs)
            raise ValueError(f"fault of {pattern!r}: no log named this; logs: {names}")
    return tuple(
        msgspec.structs.replace(
            log,
            faults=(
                *(fault for pattern, fault in wrong if fnmatch.fnmatchcase(log.name, pattern)),
                *(fault_types.in_turn(position, troubles) if troubles else ()),
            ),
        )
        for position, log in enumerate(logs)
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
