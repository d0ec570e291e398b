"""Converts the configuration to the settings of the parts of an ingestor."""

from certbus.keys import STREAMS
from certbus.streams.publisher import PublisherSettings
from certbus.streams.retention import Retention
from certconf.settings import Config
from ingestor.assignment.start_position import StartSettings, read_rust_state
from ingestor.log import Kind


def kinds(config: Config) -> frozenset[Kind]:
    """Return the APIs of the logs to follow."""
    enabled = {
        Kind.RFC6962: config.ct_log.rfc6962_enabled,
        Kind.STATIC_CT: config.ct_log.static_ct_enabled,
    }
    return frozenset(kind for kind, on in enabled.items() if on)


def publisher_settings(config: Config) -> PublisherSettings:
    """Return which streams to publish, and how long deduplication marks live.

    A mark lives for the longer of two times: the deduplication window, and the longest retention,
    so that every retained certificate can be looked up.
    """
    streams = config.streams
    enabled = {"full": streams.full, "lite": streams.lite, "domains": streams.domains_only}
    longest = max(limit.max_age_secs for limit in retention(config).values())
    return PublisherSettings(
        streams=tuple(name for name in STREAMS if enabled[name]),
        remember_ms=int(max(config.dedup.ttl_secs, longest) * 1000),
        codec=config.codec,
        dedup=config.dedup.by,
    )


def retention(config: Config) -> dict[str, Retention]:
    """Return how much of each stream is retained."""
    limits = config.retention
    named = {"full": limits.full, "lite": limits.lite, "domains": limits.domains}
    return {name: Retention(limit.max_bytes, limit.max_age_secs) for name, limit in named.items()}


def start_settings(config: Config) -> StartSettings:
    """Return where logs start that Redis does not know; reads another server's state file."""
    settings = config.ct_log
    return StartSettings(
        index=settings.start_index,
        taken_over=read_rust_state(settings.state_file) if settings.state_file else {},
        overlap=settings.start_overlap_leaves,
    )
