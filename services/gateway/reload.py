"""A newer configuration, while clients are connected: who may stay stays, and misses nothing.

What is offered and who may come in change between two turns of the loop. Then those go who may not
stay: each is told why, and closed.
"""

import asyncio
from collections.abc import Iterator
from typing import Final

import msgspec
import structlog

from certbus.streams.reader import StreamReader
from certconf import Config, ConfigHolder
from gateway.admission.controller import AdmissionController
from gateway.admission.policy import policy_of
from gateway.clients.base import Client
from gateway.config import Settings, settings_of
from gateway.delivery.channel import Channel
from gateway.delivery.encoding import SSE
from gateway.hub import Hub

_GOING_AWAY: Final = 1001  # RFC 6455 section 7.4.1
_POLICY_VIOLATION: Final = 1008
_AT_ONCE: Final = 100  # clients closed before the loop gets its turn

log = structlog.get_logger(__name__)


class Reload(msgspec.Struct, frozen=True):
    """What goes by the configuration as it is now.

    Attributes:
        service: has the clients.
        follower: reads the streams that are offered.
        door: says who may come in.
    """

    service: Hub
    follower: StreamReader
    door: AdmissionController

    async def run(self, present: ConfigHolder, config: Config) -> None:
        """Go by each newer configuration as it comes, until cancelled.

        Args:
            present: has them.
            config: what everything was made from.
        """
        while True:
            config = await present.wait_for_change(than=config)
            await self._apply(config)

    async def _apply(self, config: Config) -> None:
        settings = settings_of(config, self.service.settings)
        self.door.set_policy(policy_of(config))
        gone = self.service.apply_settings(settings)
        self.follower.set_streams(settings.streams)
        closed = 0
        for client, code, reason in list(self._unwanted(gone, settings)):
            if client.closed:
                continue
            client.close(code, reason)
            closed += 1
            if closed % _AT_ONCE == 0:
                await asyncio.sleep(0)
        if closed:
            log.info("clients that may not stay were closed", clients=closed)

    def _unwanted(
        self, gone: list[Channel[Client]], settings: Settings
    ) -> Iterator[tuple[Client, int, str]]:
        """Clients that have to go, each with the code and the reason it is told."""
        for lane in (*gone, *self.service.channels.values()):
            reason = None
            if lane in gone:
                reason = f"the {lane.ring.stream} stream was switched off"
            elif not (settings.sse if lane.encoding is SSE else settings.websocket):
                reason = f"{'SSE' if lane.encoding is SSE else 'WebSocket'} was switched off"
            for client in lane.clients:
                if reason is not None:
                    yield client, _GOING_AWAY, f"{reason}; ?cursor={client.position} elsewhere"
                elif client.ticket is not None and not self.door.still_allowed(
                    client.ticket.client
                ):
                    yield client, _POLICY_VIOLATION, "this token is not known here any more"
