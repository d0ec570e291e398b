"""Apply a new configuration while clients are connected.

Streams, encodings and policy change in one step of the event loop. Then the gateway closes the
clients that the new configuration does not allow, each with a reason, and applies the new lines of
named filters to their clients. These miss no message.
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
from gateway.config import settings_of
from gateway.delivery.channel import Channel
from gateway.endpoints.filter_change import FilterChanges
from gateway.hub import Hub

_GOING_AWAY: Final = 1001  # RFC 6455 section 7.4.1
_POLICY_VIOLATION: Final = 1008
_CHECK_SECS: Final = 10.0  # longest time between two reads of the clock while tokens expire
_CLOCK_MARGIN_SECS: Final = 0.05  # by which the event loop's clock may be ahead of the system's
_YIELD_AFTER_CLIENTS: Final = 100  # closed before other tasks run

log = structlog.get_logger(__name__)


class Reload(msgspec.Struct, frozen=True):
    """The components that a new configuration changes.

    Attributes:
        hub: rings, channels and clients.
        reader: of the streams.
        admission: has the policy.
        filters: renews the filters of clients.
    """

    hub: Hub
    reader: StreamReader
    admission: AdmissionController
    filters: FilterChanges

    async def run(self, present: ConfigHolder, config: Config) -> None:
        """Apply each new configuration, until cancelled.

        Args:
            present: receives new configurations.
            config: the configuration in effect.
        """
        while True:
            expiry = self.admission.secs_to_expiry()
            pause = None if expiry is None else _CHECK_SECS
            if expiry is not None and 0 < expiry < _CHECK_SECS:
                pause = expiry + _CLOCK_MARGIN_SECS
            try:
                async with asyncio.timeout(pause):
                    config = await present.wait_for_change(than=config)
            except TimeoutError:
                if expiry is not None and expiry <= _CHECK_SECS:
                    await self._close_disallowed([])
            else:
                await self._apply(config)

    async def _apply(self, config: Config) -> None:
        before = self.hub.settings.filters
        settings = await asyncio.to_thread(settings_of, config, self.hub.settings)
        changed = {name for name, given in before.items() if settings.filters.get(name) != given}
        self.admission.set_policy(policy_of(config))
        removed = self.hub.apply_settings(settings)
        self.reader.set_streams(settings.streams)
        await self._close_disallowed(removed)
        if changed:
            await self.filters.renew(changed)

    async def _close_disallowed(self, removed: list[Channel[Client]]) -> None:
        closed = 0
        for client, code, why in list(self._disallowed(removed)):
            if client.closed:
                continue
            reason = why
            if code == _GOING_AWAY:
                reason = f"{why}; {client.resume_hint} elsewhere"
            client.close(code, reason)
            closed += 1
            if closed % _YIELD_AFTER_CLIENTS == 0:
                await asyncio.sleep(0)
        if closed:
            log.info("clients closed", clients=closed)

    def _disallowed(self, removed: list[Channel[Client]]) -> Iterator[tuple[Client, int, str]]:
        """Yield each client that may not stay, with the code and the reason."""
        settings = self.hub.settings
        for channel in (*removed, *self.hub.all_channels):
            reason = None
            if channel in removed:
                disabled = {channel.stream, channel.ring.stream} - set(settings.offered)
                reason = f"stream {min(disabled)} disabled"
            elif not (settings.sse if channel.encoding.is_sse else settings.websocket):
                reason = f"{'SSE' if channel.encoding.is_sse else 'WebSocket'} disabled"
            for client in tuple(channel.clients):
                if reason is not None:
                    yield client, _GOING_AWAY, reason
                elif client.slot is not None and (
                    why := self.admission.why_disallowed(client.slot.client, channel.stream)
                ):
                    yield client, _POLICY_VIOLATION, why
