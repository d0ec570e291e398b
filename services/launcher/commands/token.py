"""`certstream-server token`: make a token, and the form of it that the configuration holds."""

import argparse
import secrets
from hashlib import sha256
from typing import Final

_TOKEN_BYTES: Final = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--name", default="NAME", help="name of the owner, in the printed setting")


def run(args: argparse.Namespace) -> int:
    """Print a token of 256 random bits, and the setting with its SHA-256."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    print(f"token for the client, shown only now: {token}")
    print(f"setting in auth.holders: {{name: {args.name}, sha256: {_digest(token)}}}")
    return 0


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()
