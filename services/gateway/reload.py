"""Apply a new configuration while clients are connected.

Streams, encodings and policy change in one step of the event loop. Then the gateway closes the
clients that the new configuration does not allow, each with a reason. The others miss no message.
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
_YIELD_AFTER_CLIENTS: Final = 100  # closed before other tasks run

log = structlog.get_logger(__name__)


class Reload(msgspec.Struct, frozen=True):
    """The components that a new configuration changes.

    Attributes:
        hub: rings, channels and clients.
        reader: of the streams.
        admission: has the policy.
    """

    hub: Hub
    reader: StreamReader
    admission: AdmissionController

    async def run(self, present: ConfigHolder, config: Config) -> None:
        """Apply each new configuration, until cancelled.

        Args:
            present: receives new configurations.
            config: the configuration in effect.
        """
        while True:
            config = await present.wait_for_change(than=config)
            await self._apply(config)

    async def _apply(self, config: Config) -> None:
        settings = settings_of(config, self.hub.settings)
        self.admission.set_policy(policy_of(config))
        removed = self.hub.apply_settings(settings)
        self.reader.set_streams(settings.streams)
        closed = 0
        for client, code, reason in list(self._disallowed(removed, settings)):
            if client.closed:
                continue
            client.close(code, reason)
            closed += 1
            if closed % _YIELD_AFTER_CLIENTS == 0:
                await asyncio.sleep(0)
        if closed:
            log.info("clients closed", clients=closed)

    def _disallowed(
        self, removed: list[Channel[Client]], settings: Settings
    ) -> Iterator[tuple[Client, int, str]]:
        """Yield each client that may not stay, with the code and the reason."""
        for channel in (*removed, *self.hub.channels.values()):
            reason = None
            if channel in removed:
                reason = f"stream {channel.ring.stream} disabled"
            elif not (settings.sse if channel.encoding is SSE else settings.websocket):
                reason = f"{'SSE' if channel.encoding is SSE else 'WebSocket'} disabled"
            for client in channel.clients:
                if reason is not None:
                    yield client, _GOING_AWAY, f"{reason}; ?cursor={client.position} elsewhere"
                elif client.slot is not None and not self.admission.still_allowed(
                    client.slot.client
                ):
                    yield client, _POLICY_VIOLATION, "token revoked"
