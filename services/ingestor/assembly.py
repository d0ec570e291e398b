"""Puts together what following one log takes: client, writer, pipeline, guard, follower."""

from collections.abc import Callable, Iterator
from functools import partial

import httpx
import msgspec
import structlog

from certbus.leases import Lease, Leases
from certbus.ledger import Ledger
from certbus.publisher import Publisher
from certconf.settings import Config, Integrity
from ctparse.certificate import CertificateReader
from ctparse.messages import MessageWriter, Source
from ctparse.signatures import BadKey, LogKey, load_log_key
from ctparse.treehead import TreeHead
from ingestor.catalog.log import Kind, Log
from ingestor.ctclient.fetch import Fetcher, Retry
from ingestor.ctclient.issuers import Issuers
from ingestor.ctclient.protocol import LogClient
from ingestor.ctclient.rfc6962 import Rfc6962Log
from ingestor.ctclient.static_ct import Identity, StaticCtLog
from ingestor.follow.follower import Follower, Pace
from ingestor.follow.moment import moments
from ingestor.follow.pipeline import Pipeline
from ingestor.integrity.guard import Guard, check_signature
from ingestor.meter import Meter
from ingestor.outage import Patience

_log = structlog.get_logger(__name__)


class Assembly(msgspec.Struct, frozen=True):
    """What the logs of a process share.

    Attributes:
        config: the settings.
        http: the one HTTP client.
        publisher: into Redis.
        leases: this worker's.
        ledger: what Redis keeps of each log's tree.
        reader: remembers what certificates have in common, across logs.
        patience: what to do while Redis is away.
        meter: counts what they do.
        moments: when to poll the next log, as a part of its interval.
    """

    config: Config
    http: httpx.AsyncClient
    publisher: Publisher
    leases: Leases
    ledger: Ledger
    reader: CertificateReader
    patience: Patience
    meter: Meter
    moments: Iterator[float] = msgspec.field(default_factory=moments)

    @property
    def retry(self) -> Retry:
        """The `ct_log.retry_*` settings, in seconds."""
        settings = self.config.ct_log
        return Retry(
            attempts=max(1, settings.retry_max_attempts),
            initial=settings.retry_initial_delay_ms / 1000,
            maximum=settings.retry_max_delay_ms / 1000,
        )

    def fetcher(self, log: Log) -> Fetcher:
        """What fetches from `log`."""
        timeout = self.config.ct_log.request_timeout_secs
        return Fetcher(self.http, log.name, self.retry, timeout, self.meter.fetches(log.operator))

    def client(self, log: Log) -> LogClient:
        """What reads `log`."""
        fetcher = self.fetcher(log)
        if log.kind is Kind.RFC6962:
            return Rfc6962Log(log.base, fetcher)
        identity = Identity(log.digest, log.origin)
        return StaticCtLog(log.base, fetcher, Issuers(log.base, fetcher), identity)

    def follower(self, log: Log, lease: Lease) -> Follower:
        """What follows `log` under `lease`."""
        settings = self.config.ct_log
        client = self.client(log)
        writer = MessageWriter(
            Source(log.name, f"{log.base}/", log.operator, log.kind.value),
            client.link,
            client.chain,
            chain_der=self.config.streams.chain_der,
            reader=self.reader,
        )
        pace = Pace(
            batch_size=log.batch_size or settings.batch_size,
            concurrency=settings.fetch_concurrency,
            poll=(log.poll_interval_ms or settings.poll_interval_ms) / 1000,
            moment=next(self.moments),
            retry=self.retry,
        )
        meter = self.meter.log(log.name)
        pipeline = Pipeline(self.publisher, self.leases, lease, writer, self.patience, meter)
        hope = 2 * self.retry.maximum
        guard = Guard(log, client, _key(log), self._mode(log), self.ledger, self.patience, hope)
        return Follower(log, client, pipeline, guard, pace)

    def signature_check(self, log: Log) -> Callable[[TreeHead], None] | None:
        """What refuses tree heads that `log` did not sign; None if nothing should."""
        return partial(check_signature, log, _key(log)) if self._mode(log) == "enforce" else None

    def _mode(self, log: Log) -> Integrity:
        return log.integrity or self.config.ct_log.integrity


def _key(log: Log) -> LogKey | None:
    if log.key is None:
        return None
    try:
        return load_log_key(log.key)
    except BadKey as error:
        _log.warning("signatures of log cannot be verified", log=log.name, problem=str(error))
        return None
