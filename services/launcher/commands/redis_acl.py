"""`certstream-server redis-acl`: print the rule of the user that the server needs in Redis."""

import argparse
import sys
from typing import Final, cast, get_args
from urllib.parse import unquote, urlsplit

from certbus.acl import Server, acl_rule
from certbus.sentinel import SentinelURL
from certconf import Config
from launcher import options
from launcher.terminal import CommandError

_USER: Final = "certstream"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--server",
        choices=get_args(Server),
        default="primary",
        help="the Redis that the rule is for (primary)",
    )
    options.add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """Print the rule for the user and the password of the configured URL.

    Raises:
        certconf.ConfigError: the configuration is invalid.
        CommandError: the name of the user or the prefix cannot be part of a rule.
    """
    config, _ = options.configuration(args)
    server = cast("Server", args.server)
    user, password = _credentials(config, server)
    try:
        print(acl_rule(server, user, config.redis_prefix, password))
    except ValueError as error:
        raise CommandError(str(error)) from error
    if password is None:
        print(
            f"note: without a password in the URL or its file, {user} cannot log in: append "
            "'>PASSWORD' or '#SHA256' to the rule",
            file=sys.stderr,
        )
    return 0


def _credentials(config: Config, server: Server) -> tuple[str, str | None]:
    """Return the name of the user and the password, which are part of the URL."""
    secret = config.redis_url
    if server == "replica" and config.redis_read_url is not None:
        secret = config.redis_read_url
    url = "" if secret is None else secret.reveal()
    if server == "sentinel":
        url = SentinelURL(url).sentinels[0] if secret is not None and secret.has_sentinels else ""
    parts = urlsplit(url)
    password = None if parts.password is None else unquote(parts.password)
    return unquote(parts.username or "") or _USER, password
