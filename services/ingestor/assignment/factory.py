"""Puts together what following one log takes: client, writer, pipeline, guard, follower."""

from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import structlog

from certbus.caches.issuers import IssuerCache
from certbus.limits.operators import OperatorSlots
from certbus.logs.circuit_state import CircuitStore
from certbus.logs.leases import Lease, Leases
from certbus.logs.tree_state import TreeStateStore
from certbus.streams.publisher import Publisher
from certconf.settings import Config, CTLog, Integrity
from ctparse.certificate import CertificateReader
from ctparse.signatures import BadKey, LogKey, load_log_key
from ctparse.tree_head import TreeHead
from ctparse.wire_messages import MessageWriter, Source
from ingestor.backoff import Backoff
from ingestor.client.addresses import HttpClients
from ingestor.client.circuit_breaker import CircuitBreaker, CircuitPolicy
from ingestor.client.http import Fetcher, Retry
from ingestor.client.interface import LogClient
from ingestor.client.issuers import Issuers, IssuerStore
from ingestor.client.log_availability import LogAvailability
from ingestor.client.rfc6962 import Rfc6962Log
from ingestor.client.static_ct import Identity, StaticCtLog
from ingestor.client.throttle import OperatorThrottle
from ingestor.cpu import Cpu
from ingestor.log import Kind, Log
from ingestor.metrics import Metrics
from ingestor.pipeline.follower import Follower, PollSettings
from ingestor.pipeline.poll_schedule import poll_phases
from ingestor.pipeline.publish import WindowPublisher
from ingestor.redis_retry import RedisRetry
from ingestor.verification.alerts import IntegrityAlerts
from ingestor.verification.verifier import Verifier, check_signature

_log = structlog.get_logger(__name__)


class FollowerFactory(msgspec.Struct, frozen=True):
    """What the logs of a process share.

    Attributes:
        config: the settings.
        http: the connection pools.
        publisher: into Redis.
        leases: this worker's.
        ledger: what Redis keeps of each log's tree.
        circuits: how the circuit of each log stands.
        operators: whose turn it is to ask an operator.
        issuers: what other logs and workers have fetched of these.
        reader: remembers what certificates have in common, across logs.
        patience: what to do while Redis is away.
        meter: counts what they do.
        moments: when to poll the next log, as a part of its interval.
        cpu: what they take turns at.
    """

    config: Config
    http: HttpClients
    publisher: Publisher
    leases: Leases
    ledger: TreeStateStore
    circuits: CircuitStore
    operators: OperatorSlots
    issuers: IssuerCache
    reader: CertificateReader
    patience: RedisRetry
    meter: Metrics
    moments: Iterator[float] = msgspec.field(default_factory=poll_phases)
    cpu: Cpu = msgspec.field(default_factory=Cpu)

    @property
    def retry(self) -> Retry:
        """How often a request is sent, and when (`ct_log.retry_*`)."""
        settings = self.config.ct_log
        return Retry(
            attempts=max(1, settings.retry_max_attempts),
            backoff=Backoff(
                settings.retry_initial_delay_ms / 1000, settings.retry_max_delay_ms / 1000
            ),
        )

    @property
    def rules(self) -> CircuitPolicy:
        """When circuits open and close (`ct_log.*_threshold`)."""
        settings = self.config.ct_log
        closed = self.retry.backoff
        return CircuitPolicy(
            unhealthy=settings.unhealthy_threshold,
            healthy=settings.healthy_threshold,
            closed=closed,
            open=Backoff(closed.initial, settings.health_check_interval_secs),
        )

    def fetcher(self, log: Log, circuit: CircuitBreaker) -> Fetcher:
        """What fetches from `log`, while its circuit allows it."""
        settings, meter = self.config.ct_log, self.meter
        interval = _interval(log.operator, settings)
        waited = meter.operator_wait.labels(log.operator or "unknown").inc
        turns = OperatorThrottle(log, interval, circuit, self.operators, self.patience, waited)
        timeout, measured = settings.request_timeout_secs, meter.fetches(log.operator)
        return Fetcher(self.http, log.name, self.retry, timeout, measured, turns, log.listed_at)

    def client(self, log: Log) -> tuple[LogClient, LogAvailability]:
        """What reads `log`, and what decides when it may be read."""
        self.meter.log(log.name)  # its series begin at 0, also if it never answers
        circuit = CircuitBreaker(self.rules)
        fetcher = self.fetcher(log, circuit)
        breaker = LogAvailability(log, circuit, self.circuits, self.patience)
        if log.kind is Kind.RFC6962:
            return Rfc6962Log(log.base, fetcher, self.cpu), breaker
        identity = Identity(log.key_sha256, log.origin)
        issuers = Issuers(log.base, fetcher, IssuerStore(self.issuers, self.patience))
        return StaticCtLog(log.base, fetcher, issuers, identity, self.cpu), breaker

    def follower(self, log: Log, lease: Lease) -> Follower:
        """What follows `log` under `lease`."""
        settings = self.config.ct_log
        client, breaker = self.client(log)
        writer = MessageWriter(
            Source(log.name, f"{log.base}/", log.operator, log.kind.value),
            client.entry_url,
            client.issuer_chain,
            chain_der=self.config.streams.chain_der,
            reader=self.reader,
        )
        pace = PollSettings(
            batch_size=log.batch_size or settings.batch_size,
            concurrency=settings.fetch_concurrency,
            poll=(log.poll_interval_ms or settings.poll_interval_ms) / 1000,
            moment=next(self.moments),
        )
        meter = self.meter.log(log.name)
        pipeline = WindowPublisher(
            self.publisher, self.leases, lease, writer, self.patience, meter, self.cpu
        )
        hope = 2 * self.retry.backoff.maximum
        guard = Verifier(
            log, client, _key(log), self._mode(log), self.ledger, self.patience, hope, self.cpu
        )
        return Follower(log, client, pipeline, guard, breaker, pace)

    def alarms(self, log: Log) -> IntegrityAlerts:
        """What tells of lies of `log` before it is followed."""
        return IntegrityAlerts(
            log, self.ledger, self.patience, enforced=self._mode(log) == "enforce"
        )

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


def _interval(operator: str, settings: CTLog) -> float:
    """Seconds between two requests to an operator."""
    limits = {name.casefold(): limit for name, limit in settings.operator_rate_limits.items()}
    return limits.get(operator.casefold(), settings.default_operator_rate_limit_ms) / 1000
