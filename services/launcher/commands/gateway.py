"""`certstream-server gateway`: one gateway in this process."""

import argparse

from certconf import ConfigHolder
from gateway.app import serve
from launcher import options
from launcher.runtime import run_service
from launcher.runtime.config_reload import ConfigReloader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_listening(parser)
    options.add_admin(parser, "/health, /ready and /metrics")
    options.add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """Serve clients until SIGINT or SIGTERM."""
    config = options.configuration_with_redis(args)
    run_service.prepare("gateway", config, args.log_format, args.parent_pid)
    current = ConfigHolder(config)
    supervised = args.parent_pid is not None
    reload = ConfigReloader("gateway", current, options.reader(args, config), quiet=supervised)
    return run_service.run_reporting_errors(
        lambda stop: serve(config, stop, admin=config.admin, present=current),
        reload,
        run_service.health_of(config.admin),
    )
