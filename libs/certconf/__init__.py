"""One validated configuration from defaults < config.yaml < CERTSTREAM_* < command line.

`load` is the way in and `Config` (settings.py, the list of every setting) the result. Between
them lie small steps, a module each:

    document.py     YAML text -> nodes that remember the file and line they came from
    environment.py  CERTSTREAM_* variables -> nodes that remember their variable
    peers.py        keys of certstream-server-rust's file: older names, and those without a
                    meaning here
    hosts.py        what a host may be called
    build.py        nodes -> frozen structs, collecting every problem on the way

A configuration may change while a service runs: live.py says what of it then applies, and
present.py holds the one to go by.

Nothing here starts, connects or logs anything: what the operator should be told comes back as
`Config.notices`, what is wrong as one `ConfigError` that names every problem at once.
"""

from certconf.current import ConfigHolder
from certconf.errors import ConfigError, ConfigProblem
from certconf.loading import find_config_file, load
from certconf.network import Network
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
