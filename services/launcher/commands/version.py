"""`certstream-server version`."""

import argparse
from importlib.metadata import version


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Declare no options."""


def run(_: argparse.Namespace) -> int:
    """Print the version."""
    print("certstream-server", version("certstream-server"))
    return 0
