"""Makes the parts that follow one log: client, writer, publisher, verifier, follower."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import structlog

from certbus.caches.issuers import IssuerCache
from certbus.keys import operator_key
from certbus.limits.operators import OperatorSlots
from certbus.logs.circuit_state import CircuitStore
from certbus.logs.leases import Lease, Leases
from certbus.logs.tree_state import TreeStateStore
from certbus.streams.publisher import Publisher
from certconf.settings import Config, Integrity
from ctparse.certificate import CertificateReader
from ctparse.signatures import BadKey, LogKey, load_log_key
from ctparse.wire_messages import MessageWriter, Source
from ingestor.assignment.start_position import StartPosition, StartSettings, find_start
from ingestor.client.addresses import HttpClients
from ingestor.client.http import Fetcher
from ingestor.client.hybrid import HybridLog
from ingestor.client.interface import LogClient
from ingestor.client.issuers import Issuers, IssuerStore
from ingestor.client.log_availability import CircuitPolicy, LogAvailability, circuit_policy
from ingestor.client.rfc6962 import Rfc6962Log
from ingestor.client.static_ct import Identity, StaticCtLog
from ingestor.client.throttle import OperatorThrottle, request_interval
from ingestor.cpu import Cpu
from ingestor.log import Kind, Log
from ingestor.metrics import FAILED_FETCHES, FetchOutcome, Metrics
from ingestor.pipeline.catch_up import CatchUpLimits
from ingestor.pipeline.follower import Follower, PollSettings, Requests
from ingestor.pipeline.poll_schedule import poll_phases
from ingestor.pipeline.prefetch import FetchedBytes, InFlight
from ingestor.pipeline.publish import WindowPublisher
from ingestor.redis_retry import RedisRetry
from ingestor.verification.alerts import IntegrityAlerts
from ingestor.verification.verifier import Verifier

_log = structlog.get_logger(__name__)


class LogAccess(NamedTuple):
    """What reads one log.

    Attributes:
        client: its client.
        availability: decides when it is requested.
    """

    client: LogClient
    availability: LogAvailability


class FollowerFactory(msgspec.Struct, frozen=True):
    """What the logs of a process share.

    Attributes:
        config: the settings.
        http: the connection pools.
        publisher: writes batches to Redis.
        leases: this worker's.
        tree_states: stores the tree of each log.
        circuits: stores the circuit of each log.
        operators: the request slots of each operator.
        issuers: cache of issuer certificates, shared by all logs and workers.
        reader: caches what certificates have in common, across logs.
        redis_retry: repeats Redis calls while Redis is away.
        metrics: those of this process.
        phases: of the polls of the next logs, as fractions of an interval.
        cpu: the CPU time of this process.
        fetched: bytes of entries that its logs have fetched ahead.
        throttles: those of this process, by `operator_key` of `Log.slots`.
    """

    config: Config
    http: HttpClients
    publisher: Publisher
    leases: Leases
    tree_states: TreeStateStore
    circuits: CircuitStore
    operators: OperatorSlots
    issuers: IssuerCache
    reader: CertificateReader
    redis_retry: RedisRetry
    metrics: Metrics
    phases: Iterator[float] = msgspec.field(default_factory=poll_phases)
    cpu: Cpu = msgspec.field(default_factory=Cpu)
    fetched: FetchedBytes = msgspec.field(default_factory=FetchedBytes)
    throttles: dict[str, OperatorThrottle] = msgspec.field(default_factory=dict)

    @property
    def circuit_policy(self) -> CircuitPolicy:
        """When requests are repeated, and circuits open and close."""
        return circuit_policy(self.config.ct_log)

    def client(self, log: Log, in_flight: InFlight | None = None) -> LogAccess:
        """Make what reads `log`, and what decides when it may be read.

        Args:
            log: the log.
            in_flight: learns of failed requests; None: nothing does.
        """
        self.metrics.log(log.name)  # its series begin at 0, also if it never answers
        settings, metrics = self.config.ct_log, self.metrics
        availability = LogAvailability(
            log,
            self.circuit_policy,
            self._throttle(log),
            self.circuits,
            self.redis_retry,
            metrics.operator_wait.labels(_operator_label(log)).inc,
        )
        count = metrics.fetches(log.operator, log.name)

        def measured(outcome: FetchOutcome, spent: float) -> None:
            count(outcome, spent)
            if in_flight is not None and outcome in FAILED_FETCHES:
                in_flight.failed()

        fetcher = Fetcher(
            self.http,
            log.name,
            settings.request_timeout_secs,
            measured,
            availability,
            log.listed_at,
        )
        if log.kind is Kind.RFC6962:
            return LogAccess(Rfc6962Log(log.base, fetcher, self.cpu), availability)
        issuers = Issuers(log.base, fetcher, IssuerStore(self.issuers, self.redis_retry))
        if log.is_hybrid:
            hybrid = HybridLog(log.base, fetcher, issuers, self.cpu)
            return LogAccess(hybrid, availability)
        identity = Identity(log.key_sha256, log.origin)
        client = StaticCtLog(log.base, fetcher, issuers, identity, self.cpu)
        return LogAccess(client, availability)

    def _throttle(self, log: Log) -> OperatorThrottle:
        """Return what has the request slots of a log."""
        operator = operator_key(log.slots)
        throttle = self.throttles.get(operator)
        if throttle is None:
            interval = request_interval(log.operator, self.config.ct_log)
            throttle = OperatorThrottle(operator, interval, self.operators, self.redis_retry)
            self.throttles[operator] = throttle
            interval_ms = self.metrics.request_interval.labels(_operator_label(log))
            interval_ms.set_function(lambda: 1000 * throttle.current)
        return throttle

    def follower(self, log: Log, lease: Lease) -> Follower:
        """Make the follower of `log` under `lease`."""
        ct_log = self.config.ct_log
        in_flight = InFlight(ct_log.fetch_concurrency)
        client, availability = self.client(log, in_flight)
        writer = MessageWriter(
            Source(log.name, f"{log.base}/", log.operator, log.kind.value),
            client.entry_url,
            client.issuer_chain,
            chain_der=self.config.streams.chain_der,
            reader=self.reader,
        )
        settings = PollSettings(
            batch_size=log.batch_size or ct_log.batch_size,
            interval=(log.poll_interval_ms or ct_log.poll_interval_ms) / 1000,
            phase=next(self.phases),
            partial_tile_wait=ct_log.partial_tile_wait_secs,
            limits=CatchUpLimits(
                ct_log.max_catchup_lag_entries,
                ct_log.max_catchup_lag_secs,
                ct_log.start_overlap_leaves,
            ),
        )
        publisher = WindowPublisher(
            self.publisher,
            self.leases,
            lease,
            writer,
            self.redis_retry,
            self.metrics.log(log.name),
            self.cpu,
        )
        verifier = Verifier(
            log,
            client,
            _key(log),
            self._mode(log),
            self.tree_states,
            self.redis_retry,
            min_refusal_secs=2 * self.circuit_policy.closed.maximum,
            cpu=self.cpu,
        )
        return Follower(
            log,
            client,
            publisher,
            verifier,
            availability,
            settings,
            Requests(in_flight, self.fetched),
        )

    async def find_start(self, log: Log, settings: StartSettings) -> StartPosition:
        """Find where to start `log`, which Redis does not know, once it answers."""
        client, availability = self.client(log)
        enforced = self._mode(log) == "enforce"
        alerts = IntegrityAlerts(log, self.tree_states, self.redis_retry, enforced=enforced)
        key = _key(log) if enforced else None
        return await find_start(log, client, key, availability, settings, alerts)

    def _mode(self, log: Log) -> Integrity:
        return log.integrity or self.config.ct_log.integrity


def _operator_label(log: Log) -> str:
    """Return the operator as the metrics of its request slots name it."""
    return log.slots if log.operator else "unknown"


def _key(log: Log) -> LogKey | None:
    if log.key is None:
        return None
    try:
        return load_log_key(log.key)
    except BadKey as error:
        _log.warning("log key rejected", log=log.name, problem=str(error))
        return None
