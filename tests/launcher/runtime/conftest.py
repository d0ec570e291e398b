"""The embedded Redis is tested with each redis-server of this machine."""

from tests.certbus.conftest import executable

__all__ = ["executable"]
