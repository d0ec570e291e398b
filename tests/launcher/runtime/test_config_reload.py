"""A new configuration while the service runs."""

import errno
import os

from structlog.testing import capture_logs

from certconf import Config, ConfigHolder
from launcher.runtime.config_reload import ConfigReloader


async def test_without_descriptors_the_configuration_stays() -> None:
    """The first named filter needs modules, which are files."""

    def read() -> Config:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "index.py")

    config = Config()
    current = ConfigHolder(config)
    with capture_logs() as logged:
        await ConfigReloader("ingestor", current, read).reload()
    assert current.config is config
    assert current.reloads["refused"] == 1
    (event,) = logged
    assert (event["event"], event["log_level"]) == ("configuration rejected", "error")
    assert "index.py" in event["why"]
