"""An HTTP/1.1 connection until it becomes a client.

Requests are answered in order: the connection reads the next one after it has handed the response
to the previous one to the kernel. A request that subscribes hands the transport to the protocol of
a client. A connection is always in one phase, and each phase has its own time-out (`Phase`).
`tests/gateway/server/test_connection.py` holds this.
"""

import asyncio
from collections.abc import Coroutine
from enum import Enum
from http import HTTPStatus
from typing import Any, Final, cast

import msgspec
import structlog

from certhttp.protocol import Request, RequestError, ServerProtocol
from gateway.access_log import AccessRecord
from gateway.admission.client_identity import ClientIdentity, client_address
from gateway.admission.controller import AdmissionController, ConnectionSlot
from gateway.clients.base import Client
from gateway.clients.sse import VARY, SSEClient
from gateway.clients.stall_timeout import unacknowledged_bytes
from gateway.clients.websocket import WebSocketClient, accept
from gateway.delivery.channel import Channel
from gateway.delivery.compression import encoding_of
from gateway.delivery.encoding import SSE, Encoding
from gateway.delivery.sse_gzip import SSE_GZIP, accepts_gzip
from gateway.endpoints.router import NO_ROUTE, Router
from gateway.http.errors import (
    ErrorCode,
    error_response,
    internal_error,
    retry_after,
)
from gateway.http.messages import (
    CORS,
    CORS_HEADERS,
    DeferredResponse,
    Outcome,
    Response,
    Subscription,
    without_base_path,
)
from gateway.hub import FilterRefused, Hub
from gateway.server.flow_control import FlowControl
from gateway.server.listener import Arrival

_RETRY_AFTER_SECS: Final = 5  # after a response that was not ready in time

MAX_CLOSE_NOTIFY_BYTES: Final = 85
"""A record with the TLS alert close_notify: 24 bytes with TLS 1.3, up to 85 with TLS 1.2."""

log = structlog.get_logger(__name__)


class Phase(Enum):
    """What a connection waits for. The value is the name of the setting with the time-out."""

    IDLE = "idle_timeout"
    """The first byte of another request."""
    REQUEST = "request_timeout"
    """The rest of a request, or the first request."""
    ANSWER = "answer_timeout"
    """A response that depends on Redis or on other processes."""
    WRITE = "client_timeout"
    """The client to take a response, also the last one before the connection is closed."""
    CLOSE = "close_timeout"
    """With TLS, the client to answer the end; one that is still reading then gets `WRITE`.

    One whose kernel has acknowledged all but the close_notify is not reading.
    """


class HTTPConnection(asyncio.Protocol):
    """Reads and answers requests until one subscribes.

    The event loop's callbacks and one task (`_handler_task`) share its state; the task exists only
    in the phase ANSWER, in which the callbacks read no request.

    Args:
        hub: state that all connections share.
        routes: return the outcome of a request.
        admission: admits or rejects requests; None admits all.
        arrival: counts the connection while it has no stream; None: it is not counted.
        refusal: the response to the first request; None: requests are handled.

    Attributes:
        phase: what it waits for.
    """

    __slots__ = (
        "_access",
        "_admission",
        "_arrival",
        "_flow",
        "_handler_task",
        "_http",
        "_hub",
        "_last",
        "_number",
        "_refusal",
        "_restricted",
        "_route",
        "_routes",
        "_slot",
        "_timer",
        "_transport",
        "phase",
    )

    _transport: asyncio.Transport
    _flow: FlowControl
    _timer: asyncio.TimerHandle

    def __init__(
        self,
        hub: Hub,
        routes: Router,
        admission: AdmissionController | None = None,
        arrival: Arrival | None = None,
        refusal: Response | None = None,
    ) -> None:
        self.phase = Phase.REQUEST
        self._hub = hub
        self._number = next(hub.connection_ids)
        self._routes = routes
        self._route = NO_ROUTE  # of the current request
        self._restricted = False  # whether only some networks may read the response
        self._access: AccessRecord | None = None  # of the current request
        self._admission = admission
        self._arrival = arrival
        self._refusal = refusal
        self._handler_task: asyncio.Task[None] | None = None
        self._slot: ConnectionSlot | None = None  # until sent, or taken by a client
        self._http = ServerProtocol(keep_bodies=False)
        self._last = False  # whether the current response is the last one

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for a request."""
        # uvloop's transports are, but do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._flow = FlowControl(self._transport)
        if transport.get_extra_info("sslcontext") is None:
            self._write_through()
        else:  # uvloop sends the end of the handshake in the next iteration; it would pause before
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._write_through)
        self._hub.pending_connections.add(self)
        if self._arrival is not None:
            self._arrival.connection = self
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Free everything that the connection holds."""
        if self._handler_task is not None:
            self._handler_task.cancel()
        if self._access is not None:
            self._access.end(None)
        self._return_ticket()
        self._unregister()

    def data_received(self, data: bytes) -> None:
        """Continue the request, or start the next one."""
        try:
            self._http.receive(data)
            if self.phase is Phase.IDLE:
                self._enter(Phase.REQUEST)
            self._advance()
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def pause_writing(self) -> None:
        """Stop reading requests: the client does not take responses."""
        self._flow.update(blocked=True)
        if self.phase is not Phase.ANSWER:
            self._enter(Phase.WRITE)

    def resume_writing(self) -> None:
        """Read requests again: the kernel has taken everything written."""
        self._flow.update(blocked=False)
        if self.phase is Phase.WRITE and not self._transport.is_closing():
            self._enter(self._next_phase())
        self._resume_pipelined()

    @property
    def is_answering(self) -> bool:
        """Whether the connection waits for this server rather than for its client."""
        return self.phase is Phase.ANSWER

    @property
    def transport(self) -> asyncio.Transport:
        """The transport of responses."""
        return self._transport

    def close(self) -> None:
        """Close the connection; a response in preparation is still sent, as the last one."""
        if self.phase is Phase.ANSWER:
            self._last = True
        else:
            self._hang_up()

    def _write_through(self) -> None:
        """Pause as soon as the kernel takes no more.

        With uvloop's TLS, a limit of 0 would always pause.
        """
        self._transport.set_write_buffer_limits(high=1, low=0)

    def _enter(self, phase: Phase) -> None:
        """Change the phase and start its time-out."""
        self.phase = phase
        if self._arrival is not None:
            self._arrival.set_idle(idle=phase is Phase.IDLE)
        self._timer.cancel()
        self._start_timer()

    def _start_timer(self) -> None:
        timeout = getattr(self._hub.settings, self.phase.value)
        self._timer = asyncio.get_running_loop().call_later(timeout, self._on_timeout)

    def _next_phase(self) -> Phase:
        return Phase.REQUEST if self._http.started else Phase.IDLE

    def _on_timeout(self) -> None:
        match self.phase:
            case Phase.ANSWER:
                if self._handler_task is not None:
                    self._handler_task.cancel()
                log.warning("response timed out", connection=self._number, route=self._route)
                error = "Response timed out; retry later"
                again = retry_after(_RETRY_AFTER_SECS)
                self._answer(error_response(ErrorCode.RESPONSE_TIMEOUT, error, again), close=True)
            case Phase.REQUEST if self._next_phase() is Phase.REQUEST:
                error = "Request timed out"
                self._answer(error_response(ErrorCode.REQUEST_TIMEOUT, error), close=True)
            case Phase.CLOSE if unacknowledged_bytes(self._transport) > MAX_CLOSE_NOTIFY_BYTES:
                self._enter(Phase.WRITE)
            case Phase.WRITE | Phase.CLOSE:
                self._transport.abort()
            case _:
                self._hang_up()

    def _hang_up(self) -> None:
        """Close once the kernel has taken everything written, or after `client_timeout`.

        A TLS transport waits for the client to close, too.
        """
        self._transport.close()
        is_tls = self._transport.get_extra_info("sslcontext") is not None
        self._enter(Phase.CLOSE if is_tls else Phase.WRITE)

    def _unregister(self) -> None:
        self._timer.cancel()
        self._hub.pending_connections.discard(self)
        if self._arrival is not None:
            self._arrival.leave()

    def _return_ticket(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()

    def _fail(self, error: BaseException) -> None:
        """Report an unexpected error, respond 500 and close this connection alone."""
        self._hub.errors.report(error, connection=self._number, route=self._route)
        self._return_ticket()
        try:
            if self._http.can_respond:
                if not self._transport.is_closing():
                    self._answer(internal_error(), close=True)
                return
        except Exception as another:  # noqa: BLE001
            self._hub.errors.report(another, connection=self._number, route=self._route)
        self._transport.abort()

    def _advance(self) -> None:
        """Answer the next request if it is whole."""
        while not self._flow.stopped and not self._transport.is_closing():
            try:
                request = self._http.next_request()
            except RequestError as error:
                self._answer(error_response(ErrorCode[error.code.upper()], str(error)), close=True)
                return
            if request is not None:
                self._respond(without_base_path(request, self._hub.settings.base_path))
            elif self._http.peer_closed:
                self._hang_up()
            else:
                return

    def _respond(self, request: Request) -> None:
        if self._hub.settings.access_log:
            self._access = self._record(request)
        if self._refusal is not None:
            self._answer(self._refusal, close=True)
            return
        self._route = self._routes.metric_label(request)
        admission = self._admission
        if admission is None:
            self._proceed(request, self._routes.handle(request))
            return
        self._restricted = admission.restricts(request)
        client, refusal = admission.identify(request, self._peer())
        if self._access is not None:
            self._access.identify(client)
        if admission.is_blocking(request):
            self._respond_from(self._handle_admitted(admission, client, refusal, request))
            return
        outcome = refusal or self._handle(admission, client, request)
        if isinstance(outcome, Subscription) and request.method != "HEAD":
            self._slot = admission.acquire_unlimited(client)
        self._proceed(request, outcome)

    def _handle(
        self, admission: AdmissionController, client: ClientIdentity, request: Request
    ) -> Outcome:
        """Handle a request of a client.

        A stream needs a token that permits it. The filter of a token is added to the request.
        """
        if client.owner is not None and client.owner.filter is not None:
            fields = (*request.fields, ("filter", client.owner.filter))
            request = msgspec.structs.replace(request, fields=fields)
        outcome = self._routes.handle(request)
        if isinstance(outcome, Subscription):
            return admission.check_stream(client, outcome.stream) or outcome
        return outcome

    def _respond_from(self, handling: Coroutine[Any, Any, None]) -> None:
        """Respond from a task."""
        self._flow.update(busy=True)
        if self.phase is not Phase.ANSWER:
            self._enter(Phase.ANSWER)
        self._handler_task = asyncio.get_running_loop().create_task(handling)
        self._handler_task.add_done_callback(self._on_handled)

    def _on_handled(self, task: "asyncio.Task[None]") -> None:
        """Respond 500 if the task failed."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    async def _send_deferred(self, later: DeferredResponse) -> None:
        """Send a deferred response."""
        answer = await later.respond()
        if not self._transport.is_closing():
            headers = (*answer.headers, *later.headers)
            self._answer(msgspec.structs.replace(answer, headers=headers))

    async def _handle_admitted(
        self,
        admission: AdmissionController,
        client: ClientIdentity,
        refusal: Response | None,
        request: Request,
    ) -> None:
        """Handle a request after Redis has counted it.

        Args:
            admission: admits the request.
            client: the client.
            refusal: the response if the client is not allowed; the request still counts.
            request: the request.
        """
        policy = admission.policy
        admitted = await admission.check_request(client)
        outcome: Outcome
        if isinstance(admitted, Response):
            outcome = admitted
        else:
            outcome = refusal or self._handle(admission, client, request)
            if not isinstance(outcome, Subscription):
                headers = (*outcome.headers, *admitted)
                outcome = msgspec.structs.replace(outcome, headers=headers)
            elif request.method != "HEAD":
                entered = await admission.acquire_connection(client)
                if isinstance(entered, Response):
                    outcome = entered
                else:
                    self._slot = entered
        if self._transport.is_closing():
            self._return_ticket()
        elif admission.policy is not policy:  # the configuration has changed since
            self._return_ticket()
            self._respond(request)
        else:
            self._proceed(request, outcome)

    def _proceed(self, request: Request, outcome: Outcome) -> None:
        if isinstance(outcome, Subscription) and self._last:
            error = "Server is shutting down; reconnect"
            outcome = error_response(ErrorCode.SHUTTING_DOWN, error, retry_after(1))
        if isinstance(outcome, Response):
            self._answer(outcome)
        elif isinstance(outcome, DeferredResponse):
            self._respond_from(self._send_deferred(outcome))
        elif request.method == "HEAD":
            self._answer(
                Response(200, (("Content-Type", "text/event-stream"), VARY, *CORS_HEADERS), b"")
            )
        elif outcome.websocket:
            self._become_websocket(outcome)
        else:
            # A filter selects messages from slots that are compressed as a whole.
            gzip = self._hub.settings.sse_compression and outcome.filter is None
            gzip = gzip and accepts_gzip(request.headers.get("accept-encoding"))
            channel = self._channel(outcome, SSE_GZIP if gzip else SSE)
            if isinstance(channel, Response):
                self._answer(channel)
            else:
                self._become(SSEClient(self._hub.clients, channel, self._transport), outcome)

    def _channel(
        self, subscription: Subscription, encoding: Encoding
    ) -> Channel[Client] | Response:
        """Return the channel of a client, or the response if the filter has no place."""
        try:
            return self._hub.channel(subscription.stream, encoding, subscription.filter)
        except FilterRefused as refused:
            again = [retry_after(_RETRY_AFTER_SECS)] if refused.code.status == 503 else []
            return error_response(refused.code, str(refused), *again)

    def _record(self, request: Request | None) -> AccessRecord:
        """Begin the line of a request in the access log; of a malformed one without `request`."""
        forwarded = request.headers.get("x-forwarded-for") if request else None
        trusted = self._admission.policy.trusted_proxies if self._admission else ()
        return AccessRecord(self._number, client_address(self._peer(), forwarded, trusted), request)

    def _peer(self) -> str:
        """Return the address of the client; the unspecified one if it has left already."""
        peername = self._transport.get_extra_info("peername")
        return str(peername[0]) if peername else "::"

    def _become_websocket(self, subscription: Subscription) -> None:
        received = self._http.head
        assert received is not None
        headers = [(name.decode(), value.decode("latin-1")) for name, value in received.headers]
        response, extensions = accept(
            received.target.decode(),
            headers,
            received.method.decode(),
            received.http_version.decode(),
            compression=self._hub.settings.websocket_compression,
        )
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            kept = [pair for pair in response.headers.raw_items() if pair[0] in _PASSED_HEADERS]
            text = bytes(response.body).decode().strip()
            code = _HANDSHAKE_CODES[response.status_code]
            self._answer(error_response(code, text, *kept))
            return
        channel = self._channel(
            subscription, encoding_of(extensions, filtered=subscription.filter is not None)
        )
        if isinstance(channel, Response):
            self._answer(channel)
            return
        self._transport.write(response.serialize())
        client = WebSocketClient(self._hub.clients, channel, self._transport, extensions)
        early = self._http.unread
        self._become(client, subscription)
        if early:
            client.data_received(early)

    def _become(self, client: SSEClient | WebSocketClient, subscription: Subscription) -> None:
        self._unregister()
        websocket = isinstance(client, WebSocketClient)
        self._hub.metrics.observe_response(
            self._route, HTTPStatus.SWITCHING_PROTOCOLS if websocket else HTTPStatus.OK
        )
        channel = client.channel
        log.debug(
            "client connected",
            connection=self._number,
            stream=channel.stream,
            form=channel.encoding.name,
            resumes=subscription.cursor is not None,
        )
        client.connection_id = self._number
        client.requested = subscription.requested
        client.slot, self._slot = self._slot, None
        client.access, self._access = self._access, None
        if client.access is not None:
            client.access.subscription = subscription
        self._transport.set_protocol(client)
        # Previous responses and the head of this one may have paused the transport.
        self._flow.end()
        client.attach(subscription.cursor)

    def _answer(self, answer: Response, *, close: bool = False) -> None:
        """Send a response and wait for the next request."""
        self._return_ticket()
        self._handler_task = None
        self._hub.metrics.observe_response(self._route, answer.status)
        log.debug(
            "request answered", connection=self._number, route=self._route, status=answer.status
        )
        headers = [*answer.headers, _NOSNIFF]
        if self._restricted:  # scripts of other origins must not read it
            headers = [pair for pair in headers if not pair[0].startswith(CORS)]
        kept = self._arrival is None or self._arrival.may_idle
        close = close or self._last or not kept
        data = self._http.encode(answer.status, headers, answer.body, close=close)
        self._route = NO_ROUTE
        self._restricted = False
        if self._hub.settings.access_log:
            (self._access or self._record(None)).end(answer.status, len(data))
        self._access = None
        self.phase = Phase.IDLE  # before the write, which may change the phase
        self._transport.write(data)
        if not self._http.next_cycle():
            self._hang_up()
            return
        if not self._flow.blocked:
            self._enter(self._next_phase())
        # One request per iteration of the event loop, for pipelined requests too.
        self._flow.update(busy=self._http.started)
        if self._flow.busy:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._flow.update(busy=False)
        self._resume_pipelined()

    def _resume_pipelined(self) -> None:
        """Handle requests that have been received already."""
        try:
            self._advance()
        except Exception as error:  # noqa: BLE001
            self._fail(error)


_NOSNIFF: Final = ("X-Content-Type-Options", "nosniff")
_PASSED_HEADERS: Final = ("Allow", "Upgrade", "Sec-WebSocket-Version")
"""Headers of a rejected handshake that are passed on; the others h11 and `_answer` write."""
_HANDSHAKE_CODES: Final = {
    400: ErrorCode.INVALID_HANDSHAKE,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    426: ErrorCode.UPGRADE_REQUIRED,
    500: ErrorCode.INTERNAL_ERROR,
    505: ErrorCode.VERSION_NOT_SUPPORTED,
}
"""Status of a rejected handshake -> error code."""
