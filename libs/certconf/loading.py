"""Merge the four sources of settings into one Config."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from certconf import compat_rust, env_vars
from certconf.addresses import is_host
from certconf.build import build
from certconf.errors import ConfigError, ConfigProblem, SourceLocation
from certconf.secret import RedisURL
from certconf.settings import GOOGLE_LIST, Config, CTLog, LogList
from certconf.yaml_document import DocumentError, YamlNode, iter_nodes, parse, to_builtin

#: Default paths of the file, when CERTSTREAM_CONFIG is unset.
FILES: Final = ("config.yaml", "config.yml", "/etc/certstream/config.yaml")
COMMAND_LINE: Final = SourceLocation("command line")
_MIN_CATCHUP_LAG: Final = {"max_catchup_lag_entries": 10_000, "max_catchup_lag_secs": 300}
_SYSTEM_STATE: Final = Path("/var/lib/certstream-server")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def load(
    path: Path | str | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Read, merge and check every setting.

    Args:
        path: the configuration file; None: the one of CERTSTREAM_CONFIG, else the first that
            exists of `FILES`, else no file.
        environ: `os.environ`, except in tests.
        overrides: dotted setting -> value of the command line, which takes precedence.

    Raises:
        ConfigError: with every problem.
    """
    return find_config_file(path, environ, overrides)[0]


def find_config_file(
    path: Path | str | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
) -> tuple[Config, Mapping[str, SourceLocation]]:
    """As `load`, with the source of each setting: `ct_log.batch_size`, `custom_logs[0].url`.

    A setting without a source has its default.
    """
    problems: list[ConfigProblem] = []
    notices: list[str] = []
    file = _find(path, environ)
    tree = _read(file, problems) if file else YamlNode({}, SourceLocation("defaults"))
    if tree.value is not None and not isinstance(tree.value, dict):
        raise ConfigError(
            (ConfigProblem(tree.origin, "", "is not a mapping of settings to values"),)
        )
    for key, node in env_vars.read(environ, problems, notices).items():
        compat_rust.set_path(tree, key, node)
    for key, value in (overrides or {}).items():
        compat_rust.set_path(tree, key, to_builtin(value, COMMAND_LINE))
    compat_rust.apply_aliases(tree, problems, notices)
    config = build(Config, tree, problems) or Config()
    origins = {key: node.origin for key, node in iter_nodes(tree)}
    known_bad = {problem.key for problem in problems}
    for keys, message in _contradictions(config):
        if known_bad.isdisjoint(keys):
            given = [key for key in keys if key in origins]
            origin = origins.get(given[0] if given else "", COMMAND_LINE)
            problems.append(ConfigProblem(origin, keys[0], message))
    config = _with_redis_passwords(config, origins, problems)
    if problems:
        raise ConfigError(tuple(problems))
    config = msgspec.structs.replace(
        config,
        state_dir=_state_dir(config, environ, origins),
        file=file,
        notices=(*notices, *_oddities(config, file)),
    )
    return config, origins


def _find(path: Path | str | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to read: a named one must exist, the default ones may."""
    if named := path or environ.get(f"{env_vars.PREFIX}CONFIG"):
        return Path(named)
    return next((file for file in map(Path, FILES) if file.is_file()), None)


def _read(file: Path, problems: list[ConfigProblem]) -> YamlNode:
    try:
        return parse(file.read_bytes(), str(file), problems)
    except OSError as error:
        problem = ConfigProblem(SourceLocation(str(file)), "", f"cannot be read: {error.strerror}")
        raise ConfigError((problem,)) from error
    except DocumentError as error:
        raise ConfigError((error.problem,)) from None


def _contradictions(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield settings that contradict each other: the keys, and a message."""
    yield from _unreadable_state(config.ct_log)
    yield from _wrong_delays(config.ct_log)
    yield from _wrong_filters(config)
    if not is_host(config.host):
        yield ("host",), f"{config.host[:60]!r} is neither an address nor the name of a host"
    if config.admin is not None and not config.admin.startswith("unix:"):
        host = config.admin.rpartition(":")[0]
        if not is_host(host[1:-1] if host.startswith("[") and host.endswith("]") else host):
            yield ("admin",), f"{config.admin[:60]!r} is neither host:port nor unix:<path>"
    if (config.tls_cert is None) != (config.tls_key is None):
        given, missing = ("tls_cert", "tls_key") if config.tls_cert else ("tls_key", "tls_cert")
        yield (given, missing), f"needs {missing} as well"
    for number, holder in enumerate(config.auth.holders):
        if (holder.token is None) == (holder.sha256 is None):
            key = f"auth.holders[{number}]"
            keys = (key, "auth.holders", f"{key}.token", f"{key}.sha256")
            yield keys, "needs either token or sha256"
    for setting in ("custom_logs", "static_logs", "log_lists"):
        for number, item in enumerate(getattr(config, setting) or ()):
            if _has_credentials(item.url):
                message = "url holds a password or user: it would be logged, and shown to clients"
                yield (f"{setting}[{number}]", setting), message
    for number, log_list in enumerate(config.log_lists or ()):
        if (problem := _untrustworthy(log_list)) is not None:
            yield (f"log_lists[{number}]", "log_lists"), problem


def _wrong_delays(ct_log: CTLog) -> Iterator[tuple[tuple[str, ...], str]]:
    if ct_log.retry_initial_delay_ms > ct_log.retry_max_delay_ms:
        keys = ("ct_log.retry_initial_delay_ms", "ct_log.retry_max_delay_ms")
        yield keys, f"is above retry_max_delay_ms, {ct_log.retry_max_delay_ms}"
    for name, least in _MIN_CATCHUP_LAG.items():
        if 0 < (value := getattr(ct_log, name)) < least:
            yield (f"ct_log.{name}",), f"{value} is neither 0 nor at least {least}"
    overlap, most = ct_log.start_overlap_leaves, ct_log.max_catchup_lag_entries
    if 0 < most <= overlap:
        keys = ("ct_log.start_overlap_leaves", "ct_log.max_catchup_lag_entries")
        yield keys, f"{overlap} is not below max_catchup_lag_entries, {most}: no log could skip"


def _wrong_filters(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    for number, holder in enumerate(config.auth.holders):
        if holder.filter is not None and holder.filter not in config.filters:
            key = f"auth.holders[{number}].filter"
            yield (key, "auth.holders", "filters"), f"no filter has the name {holder.filter[:60]!r}"
    if not config.filters:
        return
    # Its tables take megabytes, which a process without named filters may not need.
    from ctfilter import FilterError, parse_named_filter  # noqa: PLC0415

    for name, lines in config.filters.items():
        key = f"filters.{name}"
        if not name:
            yield ("filters",), "a filter needs a name"
        if not lines:
            yield (key, "filters"), "a filter needs a line"
        wrong = False
        for number, line in enumerate(lines):
            try:
                parse_named_filter([line])
            except FilterError as error:
                wrong = True
                yield (f"{key}[{number}]", key, "filters"), str(error).removeprefix("match: ")
        try:
            parse_named_filter(() if wrong else lines)
        except FilterError as error:  # too many lines, or regexes
            yield (key, "filters"), str(error).removeprefix("match: ")


def _unreadable_state(settings: CTLog) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield that the peer's state file cannot be read, if that must prevent the start."""
    if settings.state_recovery == "fresh" or settings.state_file is None:
        return
    try:
        compat_rust.read_state_file(settings.state_file)
    except FileNotFoundError:
        return
    except (OSError, msgspec.DecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        message = f"'{settings.state_file}' cannot be read, and state_recovery is fail: {why}"
        yield ("ct_log.state_file", "ct_log.state_recovery"), message


def _has_credentials(url: str) -> bool:
    """Return whether a URL has a user or a password (RFC 3986 section 3.2.1)."""
    try:
        return "@" in urlsplit(url).netloc
    except ValueError:
        return False


def _untrustworthy(log_list: LogList) -> str | None:
    """Return why a forged log list would be accepted, or why its settings contradict each other."""
    signed = log_list.signature_url is not None and log_list.key is not None
    some = log_list.signature_url is not None or log_list.key is not None
    try:
        url = urlsplit(log_list.url)
    except ValueError as error:
        return f"url is neither a URL nor a file: {error}"
    if log_list.unsigned and some:
        return "unsigned: true contradicts its signature"
    if log_list.unsigned:
        if url.scheme != "http" or url.hostname in _LOOPBACK:
            return None
        return (
            "is unsigned, so it needs an https:// URL: without TLS, it could be modified in transit"
        )
    if signed or (not some and log_list.url == GOOGLE_LIST.url):
        return None
    return "needs signature_url and key, or unsigned: true to be trusted as it is"


def _oddities(config: Config, file: Path | None) -> Iterator[str]:
    """Yield notices of valid settings that are probably mistakes."""
    auth = config.auth
    if auth.enabled and not (
        auth.tokens or auth.standard_tokens or auth.premium_tokens or auth.holders
    ):
        yield "auth.enabled: without a token, no client can connect: add some to auth.holders"
    if config.access_log and config.log_level not in {"trace", "debug", "info"}:
        yield f"access_log: log_level {config.log_level} suppresses it; it needs info"
    if config.hot_reload.enabled and not (config.hot_reload.watch_path or file):
        yield "hot_reload.enabled: there is no file to watch; SIGHUP reloads the configuration"


def _with_redis_passwords(
    config: Config, origins: Mapping[str, SourceLocation], problems: list[ConfigProblem]
) -> Config:
    """Add the passwords from their files to the URLs without them."""

    def read(setting: str, file: Path | None) -> str | None:
        if file is None:
            return None
        try:
            return file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            message = f"'{file}' cannot be read: {reason}"
            problems.append(ConfigProblem(origins[setting], setting, message))
            return None

    password = read("redis_password_file", config.redis_password_file)
    sentinels_file = config.redis_sentinel_password_file
    sentinels = read("redis_sentinel_password_file", sentinels_file)

    def complete(url: RedisURL | None) -> RedisURL | None:
        if url is not None and password is not None:
            url = url.with_password(password, config.redis_password_file)
        if url is not None and sentinels is not None and sentinels_file is not None:
            url = url.with_sentinel_password(sentinels, sentinels_file)
        return url

    return msgspec.structs.replace(
        config,
        redis_url=complete(config.redis_url),
        redis_read_url=complete(config.redis_read_url),
    )


def _state_dir(
    config: Config, environ: Mapping[str, str], origins: Mapping[str, SourceLocation]
) -> Path:
    """Return the configured directory, else that of the XDG base directory specification."""
    if "state_dir" in origins:
        return config.state_dir
    if base := environ.get("XDG_STATE_HOME"):
        return Path(base) / "certstream-server"
    try:
        return config.state_dir.expanduser()
    except RuntimeError:  # this user has no home directory
        return _SYSTEM_STATE
