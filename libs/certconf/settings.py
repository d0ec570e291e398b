"""Every setting, its type, its range and its default.

The nesting and the names are those of certstream-server-rust's config.yaml, so that its files
load unchanged; settings of this project are added beside them. The annotations contain the
constraints: build.py reads them to check values and to describe the accepted ones.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from certconf.addresses import Network
from certconf.secret import RedisURL, Secret

MIB: Final = 1024 * 1024

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0, le=1e9)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Text = Annotated[str, Meta(min_length=1, description="text")]
BasePath = Annotated[
    str,
    Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*/?$", description="a path that begins with /, as /ct"),
]
HeaderText = Annotated[
    str, Meta(pattern=r"^[!-~]([ -~]*[!-~])?$", description="printable ASCII characters")
]
HeaderName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", description="a header's name, as X-Token")
]
WebURL = Annotated[
    str, Meta(pattern=r"^https?://[^\s/?#]+[^\s]*$", description="an http:// or https:// URL")
]
LogId = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9+/]{43}=|[0-9A-Fa-f]{64})$",
        description="a log id: the SHA-256 of the log's key, in base64 or hex",
    ),
]
PublicKey = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9+/\s]{40,}={0,2}\s*$",
        description="a public key: the base64 of its DER SubjectPublicKeyInfo",
    ),
]
LogURL = Annotated[
    str,
    Meta(
        pattern=r"^(https?://)?[^\s/?#@:\[\]]+(:[0-9]{1,5})?(/[^\s?#]*)?$",
        description="the URL of a log, as /api/logs shows it",
    ),
]
TokenDigest = Annotated[
    str, Meta(pattern=r"^[0-9A-Fa-f]{64}$", description="a SHA-256 in hex: 64 digits")
]
Moment = Annotated[
    datetime, Meta(tz=True, description="a date and time with its zone, as 2027-01-31T00:00:00Z")
]
StreamName = Literal["full", "lite", "domains", "v2"]
AdminAddress = Annotated[
    str,
    Meta(pattern=r"^(unix:.+|.+:[0-9]{1,5})$", description="host:port, or unix:<path>"),
]
#: What happens to entries that the log's signed tree does not prove: withheld, published with an
#: alarm, or not verified.
Integrity = Literal["enforce", "warn", "off"]
LogLevel = Literal["trace", "debug", "info", "warn", "warning", "error", "critical"]


class Protocols(msgspec.Struct, frozen=True):
    """Protocols and pages that a gateway offers."""

    #: Streams over WebSocket.
    websocket: bool = True
    #: Compress messages for WebSocket clients that offer permessage-deflate.
    websocket_compression: bool = True
    #: Streams over server-sent events at /sse.
    sse: bool = True
    #: Compress server-sent events with gzip for clients that accept it.
    sse_compression: bool = True
    #: /metrics.
    metrics: bool = True
    #: /health and /health/deep.
    health: bool = True
    #: /example.json of each stream.
    example_json: bool = True
    #: /latest.json and /api/….
    api: bool = False


class Streams(msgspec.Struct, frozen=True):
    """Streams that ingestors write to Redis and gateways offer to clients."""

    full: bool = True
    lite: bool = True
    domains_only: bool = True
    #: Offer the messages of version 2, which gateways make of lite, or of full without lite.
    v2: bool = False
    #: Add `as_der` to the certificates of the chain, as the servers in Go and Elixir do.
    chain_der: bool = False


class CTLog(msgspec.Struct, frozen=True):
    """How ingestors read logs; these settings apply to every log."""

    #: Attempts of one request before the log counts as failed.
    retry_max_attempts: Count = 3
    #: First delay between attempts of a request, and before a failed log is read again. The delay
    #: doubles each time and has jitter.
    retry_initial_delay_ms: Positive = 1000
    #: Longest delay between attempts.
    retry_max_delay_ms: Positive = 30_000
    #: Time-out of one request to a log.
    request_timeout_secs: PositiveFloat = 30
    #: Successes in a row that close the circuit of a log.
    healthy_threshold: Positive = 2
    #: Failures in a row that open the circuit of a log: the log is then requested rarely.
    unhealthy_threshold: Positive = 5
    #: Longest delay between two attempts while the circuit of a log is open.
    health_check_interval_secs: PositiveFloat = 60
    #: State file of certstream-server-rust; logs that Redis does not know start at its positions.
    state_file: Path | None = Path("certstream_state.json")
    #: What to do if that file exists and cannot be read: ignore it (fresh), or do not start (fail).
    state_recovery: Literal["fresh", "fail"] = "fresh"
    #: Most entries requested at once.
    batch_size: Positive = 1024
    #: Time between two tree head requests to a log that grows; an idle log is polled less often.
    poll_interval_ms: Positive = 1000
    #: Most concurrent requests for entries of one log; fewer while it answers late or fails.
    fetch_concurrency: Positive = 20
    #: Number of entries before the tree head at which a new log starts; below
    #: `max_catchup_lag_entries`, if that is set.
    start_overlap_leaves: Count = 256
    #: Index at which logs start that Redis does not know; None starts at the tree head less
    #: `start_overlap_leaves`.
    start_index: Count | None = None
    #: Seconds between two requests to the server of a log list, over all ingestors; 0 requests it
    #: only at the start, at `refresh-lists` and at SIGHUP.
    log_refresh_interval_secs: Annotated[int, Meta(ge=0, le=31_536_000)] = 3600
    #: What happens to a log that a signed list no longer wants followed: it is read to its end and
    #: dropped (stop), or followed until `retire` ends it (keep).
    removed_log_policy: Literal["stop", "keep"] = "stop"
    #: Operators of log lists whose logs are not followed, by name in any case and punctuation.
    excluded_operators: tuple[Text, ...] = ()
    #: Logs of log lists that are not followed, by URL (static-ct: the monitoring prefix).
    excluded_logs: tuple[LogURL, ...] = ()
    #: Seconds for which the entries after the last full data tile wait for their tile to be full.
    #: 0 reads the newest tile at every width; 1 delayed static-ct logs beyond what their tree
    #: heads allow (docs/performance.md).
    partial_tile_wait_secs: Annotated[float, Meta(ge=0, le=600)] = 0.5
    #: A log that is more entries behind its newest tree head than this skips to
    #: `start_overlap_leaves` before it; the range is recorded. 0 is no limit, others are 10000 or
    #: more.
    max_catchup_lag_entries: Count = 0
    #: The same, if the newest entry read and the last time at any tree head are older than this
    #: many seconds. 0 is no limit, others are 300 or more.
    max_catchup_lag_secs: Count = 0
    #: Follow RFC 6962 logs.
    rfc6962_enabled: bool = True
    #: Follow static-ct logs.
    static_ct_enabled: bool = True
    #: Entries that are not proven are withheld (enforce), published (warn), or not verified (off).
    integrity: Integrity = "enforce"
    #: The whole header User-Agent; None is product and version, and `contact` if it is set.
    user_agent: HeaderText | None = None
    #: Shortest milliseconds between two requests to one log operator, over all ingestors; 429
    #: answers lengthen it, up to a second. 0 is no limit. An operator's logs that only an unsigned
    #: list names (by default Apple's) have an interval of their own: an operator that has both
    #: kinds of logs may get twice the requests.
    default_operator_rate_limit_ms: Count = 25
    #: The same for single operators, by name in any case.
    operator_rate_limits: Mapping[str, Count] = {}


class Dedup(msgspec.Struct, frozen=True):
    """Deduplication window."""

    #: A certificate seen again within this time is not published again. The effective minimum is
    #: the longest retention.
    ttl_secs: Positive = 900
    #: `certificate`: each certificate once. `issuance`: a precertificate and the certificate issued
    #: for it together once, whichever comes first; each published certificate then has a second
    #: mark in Redis, of 60 bytes. All ingestors use the newest value.
    by: Literal["certificate", "issuance"] = "certificate"


class ConnectionLimit(msgspec.Struct, frozen=True):
    """Maximum number of connected clients over all gateways."""

    enabled: bool = False
    max_connections: Positive = 10_000
    #: Maximum for one IPv4 address or IPv6 /64 network; None is no limit.
    per_ip_limit: Positive | None = None
    #: Time after its last heartbeat at which the connections of a killed gateway stop to count.
    forget_after_secs: PositiveFloat = 15


class Tier(msgspec.Struct, frozen=True):
    """Token bucket of one tier of clients, where it differs from the free tier."""

    max_tokens: PositiveFloat | None = None
    refill_rate: PositiveFloat | None = None
    burst: PositiveFloat | None = None


class RateLimit(msgspec.Struct, frozen=True):
    """Request rate of one client over all gateways.

    A request must pass a token bucket and a sliding window.
    """

    enabled: bool = False
    #: Size of the token bucket, in requests.
    max_tokens: PositiveFloat = 100
    #: Tokens added each second.
    refill_rate: PositiveFloat = 10
    #: Requests allowed above the bucket within `burst_window_seconds`.
    burst: PositiveFloat = 20
    #: Length of the sliding window.
    window_seconds: Positive = 60
    #: Most requests within the sliding window.
    window_max_requests: Positive = 1000
    burst_window_seconds: Positive = 10
    standard: Tier = Tier()
    premium: Tier = Tier()


class TokenHolder(msgspec.Struct, frozen=True):
    """Owner of a token."""

    #: Identifies the owner in Redis and in the log.
    name: Text
    #: The token; or `sha256` instead.
    token: Secret | None = None
    tier: Literal["free", "standard", "premium"] = "free"
    #: SHA-256 of a token that `certstream-server token` made.
    sha256: TokenDigest | None = None
    #: Time from which the token is invalid; its connections are closed within 30 s.
    expires: Moment | None = None
    #: Streams to which the token may subscribe; [] is every stream.
    streams: tuple[StreamName, ...] = ()
    #: Name of a filter in `filters` that holds for everything that the token receives.
    filter: Text | None = None


class Auth(msgspec.Struct, frozen=True):
    """Tokens that clients must send."""

    #: Require a token for everything except /health and the page at / for browsers.
    enabled: bool = False
    #: Tokens of the free tier; each is named by its position in the list.
    tokens: tuple[Secret, ...] = ()
    standard_tokens: tuple[Secret, ...] = ()
    premium_tokens: tuple[Secret, ...] = ()
    #: Tokens with names.
    holders: tuple[TokenHolder, ...] = ()
    #: Another header that may carry the token; Authorization always may.
    header_name: HeaderName = "Authorization"
    #: Accept `?token=` for EventSource in browsers, which cannot send headers. Proxies and servers
    #: write URLs to their logs.
    query_token: bool = False


class Allow(msgspec.Struct, frozen=True):
    """Networks that may request restricted endpoints; None is every network."""

    #: May request /metrics, without a token.
    metrics: tuple[Network, ...] | None = None
    #: May request /latest.json and /api/….
    api: tuple[Network, ...] | None = None


class HotReload(msgspec.Struct, frozen=True):
    """Reload of the configuration when its file changes."""

    enabled: bool = False
    #: File to watch; None is the configuration file.
    watch_path: Path | None = None


class CustomLog(msgspec.Struct, frozen=True):
    """RFC 6962 log to follow in addition to the listed logs."""

    name: Text
    url: WebURL
    operator: Text | None = None
    expected_log_id: LogId | None = None
    key: PublicKey | None = None
    integrity: Integrity | None = None
    batch_size: Positive | None = None
    poll_interval_ms: Positive | None = None


class StaticLog(CustomLog, frozen=True):
    """Static-ct log to follow in addition to the listed logs; `url` is its monitoring prefix."""

    #: Origin line of the checkpoint; None is the URL without scheme and trailing slash.
    log_origin: Text | None = None
    #: Where tree heads come from: the log's checkpoint, or get-sth, if the log answers by RFC 6962
    #: and also serves full data tiles.
    tree_size_source: Literal["checkpoint", "get_sth"] = "checkpoint"


class LogList(msgspec.Struct, frozen=True):
    """Log list in the v3 format of Google; `url`, `signature_url` and `key` may be file paths."""

    url: Text
    signature_url: Text | None = None
    #: PEM file, or base64 of the SubjectPublicKeyInfo, that verifies the signature.
    key: Text | None = None
    #: Trust the list without a signature.
    unsigned: bool = False


GOOGLE_LIST: Final = LogList(
    url="https://www.gstatic.com/ct/log_list/v3/log_list.json",
    signature_url="https://www.gstatic.com/ct/log_list/v3/log_list.sig",
)
"""The list of Chrome's logs. The ingestor contains its key, so its URL alone identifies it."""

APPLE_LIST: Final = LogList(
    url="https://valid.apple.com/ct/log_list/current_log_list.json", unsigned=True
)
"""The list of Safari's logs."""

DEFAULT_LISTS: Final = (GOOGLE_LIST, APPLE_LIST)
"""The lists that are followed if `log_lists` is not set."""


class RetentionLimit(msgspec.Struct, frozen=True):
    """Size and age at which Redis trims one stream, whichever is reached first."""

    #: Of the packed batches in Redis. At 700 certificates a second, a minute of full takes 59 MiB,
    #: of lite 14 MiB, of domains 2 MiB.
    max_bytes: Positive
    #: The longest one is also the minimum of the deduplication window, whose marks take 4 MiB a
    #: minute.
    max_age_secs: Positive = 3600


class Retention(msgspec.Struct, frozen=True):
    """How far back a client can resume, by stream.

    The default sizes hold 17 minutes of full and an hour of lite and domains at 700 certificates a
    second. On a machine with less than 4 GiB, `up` with an embedded Redis takes a quarter of them.
    """

    full: RetentionLimit = RetentionLimit(1024 * MIB)
    lite: RetentionLimit = RetentionLimit(864 * MIB)
    domains: RetentionLimit = RetentionLimit(104 * MIB)


DRAIN_MARGIN_SECS: Final = 6.0
"""Seconds beyond `drain_secs` after which every gateway has exited."""


class Config(msgspec.Struct, frozen=True):
    """The whole configuration of every process.

    Attributes:
        host: address to listen on; `::` is every address, IPv6 and IPv4.
        port: port for clients.
        base_path: path prefix of a reverse proxy; requests are accepted with and without it.
        log_level: lowest level of log events.
        access_log: log each request and each stream when it ends, at the level info.
        tls_cert: PEM file; together with `tls_key` the port serves TLS.
        tls_key: PEM file with the private key of `tls_cert`.
        trusted_proxies: networks whose X-Forwarded-For header states the client address.
        filters: named filters, each a list of alternative lines as of `?match=`; clients select one
            with `?filter=<name>`. A reload applies new lines to connected clients.
        custom_logs: RFC 6962 logs to follow in addition to the listed logs.
        static_logs: static-ct logs to follow in addition to the listed logs.
        log_lists: log lists to follow; None is Google's and Apple's, [] follows only configured
            logs.
        redis_url: None makes `certstream-server up` start an embedded Redis. Query options are db,
            username and password; for redis+sentinel:// also role, sentinel_username and
            sentinel_password; for rediss:// also ssl_cert_reqs, ssl_check_hostname,
            ssl_ca_certs, ssl_ca_path, ssl_certfile, ssl_keyfile and ssl_password.
        redis_read_url: replica from which gateways read the streams.
        redis_password_file: file with the password of Redis, unless the URL has one; read again
            for each new connection.
        redis_sentinel_password_file: file with the password of the sentinels of redis+sentinel://;
            read again for each new connection.
        redis_prefix: prefix of all Redis keys.
        codec: compression of batches in Redis.
        state_dir: data of the embedded Redis.
        drain_secs: time within which a stopping gateway closes its clients. Wait at least 6 s
            longer before killing it, for clients that do not answer.
        admin: address of the admin listener with /health and /metrics of one process; `up` sets
            one for each of its processes.
        contact: mail address or URL for the User-Agent, so that log operators can reach you.
        file: the config.yaml that was read, if any.
        notices: notices for the operator, one line each.
    """

    host: Text = "0.0.0.0"  # noqa: S104 - the peers' default: a public server
    port: Port = 8080
    base_path: BasePath = ""
    log_level: LogLevel = "info"
    access_log: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    protocols: Protocols = Protocols()
    streams: Streams = Streams()
    ct_log: CTLog = CTLog()
    dedup: Dedup = Dedup()
    connection_limit: ConnectionLimit = ConnectionLimit()
    rate_limit: RateLimit = RateLimit()
    auth: Auth = Auth()
    allow: Allow = Allow()
    trusted_proxies: tuple[Network, ...] = ()
    filters: Mapping[str, tuple[Text, ...]] = {}
    hot_reload: HotReload = HotReload()
    custom_logs: tuple[CustomLog, ...] = ()
    static_logs: tuple[StaticLog, ...] = ()
    log_lists: tuple[LogList, ...] | None = None
    redis_url: RedisURL | None = None
    redis_read_url: RedisURL | None = None
    redis_password_file: Path | None = None
    redis_sentinel_password_file: Path | None = None
    redis_prefix: Text = "certstream:"
    codec: Literal["zstd", "none"] = "zstd"
    retention: Retention = Retention()
    state_dir: Path = Path("~/.local/state/certstream-server")
    drain_secs: PositiveFloat = 4
    admin: AdminAddress | None = None
    contact: HeaderText | None = None
    file: Path | None = None
    notices: tuple[str, ...] = ()

    @property
    def followed_lists(self) -> tuple[LogList, ...]:
        """The log lists to follow."""
        return DEFAULT_LISTS if self.log_lists is None else self.log_lists


#: Fields of Config that `load` fills in, not settings.
FACTS: Final = frozenset({"file", "notices"})
