"""`certstream-server ingest`: one ingestor in this process."""

import argparse

from certconf import ConfigHolder
from ingestor.app import serve
from launcher import options
from launcher.runtime import run_service
from launcher.runtime.config_reload import ConfigReloader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_start(parser)
    options.add_admin(parser, "/health, /health/deep and /metrics")
    options.add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """Read logs until SIGINT or SIGTERM."""
    config = options.configuration_with_redis(args)
    run_service.prepare("ingestor", config, args.log_format, args.parent_pid)
    current = ConfigHolder(config)
    supervised = args.parent_pid is not None
    reload = ConfigReloader("ingestor", current, options.reader(args, config), quiet=supervised)
    return run_service.run_reporting_errors(
        lambda stop: serve(config, stop, present=current),
        reload,
        run_service.health_of(config.admin),
    )
