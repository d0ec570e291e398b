"""One validated configuration from defaults < config.yaml < CERTSTREAM_* < command line.

`load` returns a `Config`; settings.py lists every setting. The steps, a module each:

    yaml_document.py YAML text -> nodes with file and line
    env_vars.py      CERTSTREAM_* variables -> nodes with their variable
    compat_rust.py   keys of certstream-server-rust's file: older names, and unused settings
    addresses.py     syntax of networks and host names
    schema.py        JSON Schema of the file
    build.py         nodes -> frozen structs; collects every problem
    loading.py       merges the sources, and checks settings that depend on each other

While a service runs, its configuration may change: reload_policy.py states which settings then
apply, and current.py holds the current one.

Nothing here starts, connects or logs anything: `Config.notices` has what to log, and one
`ConfigError` has every problem. Tests: tests/certconf.
"""

from certconf.addresses import Network
from certconf.current import ConfigHolder
from certconf.errors import ConfigError, ConfigProblem
from certconf.loading import find_config_file, load
from certconf.secret import RedisURL, Secret
from certconf.settings import (
    APPLE_LIST,
    GOOGLE_LIST,
    Allow,
    Auth,
    Config,
    ConnectionLimit,
    CTLog,
    CustomLog,
    Dedup,
    HotReload,
    LogList,
    Protocols,
    RateLimit,
    Retention,
    RetentionLimit,
    StaticLog,
    Streams,
    Tier,
    TokenHolder,
)

__all__ = [
    "APPLE_LIST",
    "GOOGLE_LIST",
    "Allow",
    "Auth",
    "CTLog",
    "Config",
    "ConfigError",
    "ConfigHolder",
    "ConfigProblem",
    "ConnectionLimit",
    "CustomLog",
    "Dedup",
    "HotReload",
    "LogList",
    "Network",
    "Protocols",
    "RateLimit",
    "RedisURL",
    "Retention",
    "RetentionLimit",
    "Secret",
    "StaticLog",
    "Streams",
    "Tier",
    "TokenHolder",
    "find_config_file",
    "load",
]
