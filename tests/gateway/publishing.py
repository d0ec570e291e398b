"""Publishes made-up certificates, the way an ingestor does."""

import hashlib
from types import TracebackType
from typing import Self

from certbus.connection import connect
from certbus.keys import Keys
from certbus.logs.leases import Leases
from certbus.streams.batch import Batch, Published
from certbus.streams.publisher import Publisher, PublisherSettings
from certbus.streams.retention import Trimmer
from ctparse.v2_message import UNVERIFIED, Verification
from ctparse.wire_messages import Message

LOG = "a" * 64


class Press:
    """Publishes batches of numbered certificates into Redis under a prefix.

    Attributes:
        printed: how many there were.
        keys: names of the keys.
        redis: the connection.
    """

    def __init__(self, url: str, prefix: str, padding: int = 0) -> None:
        self.printed = 0
        self.keys = Keys(prefix)
        self.redis = connect(url)
        self._leases = Leases(self.redis, self.keys, "press", ttl=600)
        self._publisher = Publisher(
            self.redis, self.keys, PublisherSettings(), Trimmer(self.redis, self.keys).trim
        )
        self._padding = padding

    async def __aenter__(self) -> Self:
        await self._publisher.configure()
        lease = await self._leases.acquire(LOG, 0)
        assert lease is not None
        self._lease = lease
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.redis.aclose()

    async def start_at(self, number: int) -> None:
        """Have certificate `number` be the next one; nothing was published yet."""
        await self.redis.delete(self.keys.lease(LOG), self.keys.log(LOG))  # taken from 0 on
        lease = await self._leases.acquire(LOG, number)
        assert lease is not None
        self._lease, self.printed = lease, number

    async def print(self, count: int, padding: int | None = None) -> str:
        """Publish a batch of the next `count` certificates and give its entry id.

        Certificate n has serial_number n. Every tenth has no names.
        """
        padding = self._padding if padding is None else padding
        first = self.printed
        return await self.publish(
            [message(number, padding) for number in range(first, first + count)]
        )

    async def publish(
        self, messages: list[Message], verification: Verification = UNVERIFIED
    ) -> str:
        """Publish a batch of any messages and give its entry id."""
        first, count = self.printed, len(messages)
        outcome = await self._publisher.publish(
            self._lease, Batch(first, first + count, messages, 0, [], verification=verification)
        )
        assert isinstance(outcome, Published), outcome
        assert outcome.id is not None
        self.printed += count
        return outcome.id


def names(number: int) -> str:
    return "" if number % 10 == 9 else f'"{number}.example"'


def message(number: int, padding: int) -> Message:
    digest = hashlib.sha256(b"%d" % number).digest()
    lite = (
        f'{{"message_type":"certificate_update","data":{{"leaf_cert":{{"serial_number":"{number}",'
        f'"padding":"{"x" * padding}","all_domains":[{names(number)}]}}'
    )
    return Message(
        digest,
        digest[:20],
        f'{lite},"chain":[]}}}}'.encode(),
        f"{lite}}}}}".encode(),
        f'{{"message_type":"dns_entries","data":[{names(number)}]}}'.encode(),
        (),
    )
