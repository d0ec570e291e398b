"""A connection before it is a client: HTTP/1.1, spoken by h11.

Requests are answered one after the other: the next one is read once the answer to the one before
has been handed to the kernel. One that subscribes turns the connection over to a client's protocol.

A connection is always in one phase, and each phase has a time-out of its own (`Phase`).
"""

import asyncio
from collections.abc import Coroutine
from enum import Enum
from http import HTTPStatus
from typing import Any, Final, cast

import msgspec
import structlog

from certhttp.protocol import Request, RequestError, ServerProtocol
from gateway.admission.client_identity import ClientIdentity
from gateway.admission.controller import AdmissionController, ConnectionSlot
from gateway.clients.sse import SSEClient
from gateway.clients.websocket import WebSocketClient, accept
from gateway.delivery.compression import DEFLATED
from gateway.delivery.encoding import SSE, WEBSOCKET
from gateway.endpoints.router import ELSEWHERE, Router
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
from gateway.hub import Hub
from gateway.server.flow_control import FlowControl
from gateway.server.listener import Arrival

_AGAIN: Final = 5  # seconds after which to ask again what could not be answered in time

log = structlog.get_logger(__name__)


class Phase(Enum):
    """What a connection waits for. The values name the setting that says how long."""

    IDLE = "idle_timeout"
    """For the first byte of another request."""
    REQUEST = "request_timeout"
    """For the rest of a request, or for the first one."""
    ANSWER = "answer_timeout"
    """For an answer that others have to be asked for."""
    WRITE = "client_timeout"
    """For the peer to take an answer, or the last one before the connection ends."""


class HTTPConnection(asyncio.Protocol):
    """Reads requests and answers them, until one subscribes.

    Args:
        service: what it shares with all others.
        routes: say what to do about a request.
        door: says whether to do it; None lets everything in.
        arrival: counts it among the connections without a stream; None counts it nowhere.
        refusal: what the first request is answered, whatever it is; None to answer requests.

    Attributes:
        phase: what it waits for.
    """

    __slots__ = (
        "_arrival",
        "_door",
        "_flow",
        "_handler_task",
        "_http",
        "_last",
        "_number",
        "_refusal",
        "_restricted",
        "_route",
        "_routes",
        "_service",
        "_ticket",
        "_timer",
        "_transport",
        "phase",
    )

    _transport: asyncio.Transport
    _flow: FlowControl
    _timer: asyncio.TimerHandle

    def __init__(
        self,
        service: Hub,
        routes: Router,
        door: AdmissionController | None = None,
        arrival: Arrival | None = None,
        refusal: Response | None = None,
    ) -> None:
        self.phase = Phase.REQUEST
        self._service = service
        self._number = next(service.connection_ids)
        self._routes = routes
        self._route = ELSEWHERE  # that the request being answered has taken
        self._restricted = False  # whether its answer is for some networks alone
        self._door = door
        self._arrival = arrival
        self._refusal = refusal
        self._handler_task: asyncio.Task[None] | None = None
        self._ticket: ConnectionSlot | None = None  # until the answer is sent, or a client has it
        self._http = ServerProtocol(keep_bodies=False)
        self._last = False  # whether the connection ends with the answer being made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        # uvloop's transports are, but do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._flow = FlowControl(self._transport)
        if transport.get_extra_info("sslcontext") is None:
            self._write_through()
        else:  # uvloop sends the end of the handshake in the next turn; until then it would pause
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._write_through)
        self._service.pending_connections.add(self)
        if self._arrival is not None:
            self._arrival.connection = self
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The peer has gone."""
        if self._handler_task is not None:
            self._handler_task.cancel()
        self._return_ticket()
        self._unregister()

    def data_received(self, data: bytes) -> None:
        """Read on in the request, or begin the next one."""
        try:
            self._http.receive(data)
            if self.phase is Phase.IDLE:
                self._enter(Phase.REQUEST)
            self._advance()
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def pause_writing(self) -> None:
        """Answers are not taken: read no requests."""
        self._flow.update(blocked=True)
        if self.phase is not Phase.ANSWER:
            self._enter(Phase.WRITE)

    def resume_writing(self) -> None:
        """Everything written was taken: read requests again."""
        self._flow.update(blocked=False)
        if self.phase is Phase.WRITE and not self._transport.is_closing():
            self._enter(self._next_phase())
        self._resume_pipelined()

    @property
    def is_answering(self) -> bool:
        """Whether it waits for this server, not for its client."""
        return self.phase is Phase.ANSWER

    @property
    def transport(self) -> asyncio.Transport:
        """Where answers go."""
        return self._transport

    def close(self) -> None:
        """Hang up; an answer that others are asked for is still sent, as the last one."""
        if self.phase is Phase.ANSWER:
            self._last = True
        else:
            self._hang_up()

    def _write_through(self) -> None:
        """Hand writes to the kernel at once, and be paused as soon as it takes no more.

        A mark of zero would always be reached with uvloop's TLS.
        """
        self._transport.set_write_buffer_limits(high=1, low=0)

    def _enter(self, phase: Phase) -> None:
        """Wait for something else, with the time-out that belongs to it."""
        self.phase = phase
        if self._arrival is not None:
            self._arrival.set_idle(idle=phase is Phase.IDLE)
        self._timer.cancel()
        self._start_timer()

    def _start_timer(self) -> None:
        timeout = getattr(self._service.settings, self.phase.value)
        self._timer = asyncio.get_running_loop().call_later(timeout, self._on_timeout)

    def _next_phase(self) -> Phase:
        return Phase.REQUEST if self._http.started else Phase.IDLE

    def _on_timeout(self) -> None:
        match self.phase:
            case Phase.ANSWER:
                if self._handler_task is not None:
                    self._handler_task.cancel()
                log.warning("no answer in time", connection=self._number, route=self._route)
                error = "Response timed out; retry later"
                again = retry_after(_AGAIN)
                self._answer(error_response(ErrorCode.RESPONSE_TIMEOUT, error, again), close=True)
            case Phase.REQUEST if self._next_phase() is Phase.REQUEST:
                error = "Request timed out"
                self._answer(error_response(ErrorCode.REQUEST_TIMEOUT, error), close=True)
            case Phase.WRITE:
                self._transport.abort()
            case _:
                self._hang_up()

    def _hang_up(self) -> None:
        """Close once everything written was taken, or after a while without that."""
        self._transport.close()
        self._enter(Phase.WRITE)

    def _unregister(self) -> None:
        self._timer.cancel()
        self._service.pending_connections.discard(self)
        if self._arrival is not None:
            self._arrival.leave()

    def _return_ticket(self) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.release()

    def _fail(self, error: BaseException) -> None:
        """Answer that an error of ours came between, and close. No other connection notices."""
        self._service.errors.report(error, connection=self._number, route=self._route)
        self._return_ticket()
        try:
            if self._http.can_respond:
                if not self._transport.is_closing():
                    self._answer(internal_error(), close=True)
                return
        except Exception as another:  # noqa: BLE001
            self._service.errors.report(another, connection=self._number, route=self._route)
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
                self._respond(without_base_path(request, self._service.settings.base_path))
            elif self._http.peer_closed:
                self._hang_up()
            else:
                return

    def _respond(self, request: Request) -> None:
        if self._refusal is not None:
            self._answer(self._refusal, close=True)
            return
        self._route = self._routes.metric_label(request)
        door = self._door
        if door is None:
            self._proceed(request, self._routes.handle(request))
            return
        self._restricted = door.restricts(request)
        visitor, refusal = door.identify(request, self._peer())
        if door.is_blocking(request):
            self._wait_for(self._ask(door, visitor, refusal, request))
            return
        outcome = refusal or self._routes.handle(request)
        if isinstance(outcome, Subscription) and request.method != "HEAD":
            self._ticket = door.acquire_unlimited(visitor)
        self._proceed(request, outcome)

    def _wait_for(self, asking: Coroutine[Any, Any, None]) -> None:
        """Let a task give the answer."""
        self._flow.update(busy=True)
        if self.phase is not Phase.ANSWER:
            self._enter(Phase.ANSWER)
        self._handler_task = asyncio.get_running_loop().create_task(asking)
        self._handler_task.add_done_callback(self._asked)

    def _asked(self, asking: "asyncio.Task[None]") -> None:
        """Whatever goes wrong, the client need not wait for an answer that does not come."""
        error = None if asking.cancelled() else asking.exception()
        if error is not None:
            self._fail(error)

    async def _inquire(self, later: DeferredResponse) -> None:
        """Answer once others have."""
        answer = await later.ask()
        if not self._transport.is_closing():
            headers = (*answer.headers, *later.headers)
            self._answer(msgspec.structs.replace(answer, headers=headers))

    async def _ask(
        self,
        door: AdmissionController,
        visitor: ClientIdentity,
        refusal: Response | None,
        request: Request,
    ) -> None:
        """Answer a request once Redis has said what there is to say about it.

        Args:
            door: says whether it may be answered.
            visitor: who is asking.
            refusal: the answer, if who asks is not one who may; counted all the same.
            request: as the router has it.
        """
        policy = door.policy
        admitted = await door.check_request(visitor)
        outcome: Outcome
        if isinstance(admitted, Response):
            outcome = admitted
        else:
            outcome = refusal or self._routes.handle(request)
            if not isinstance(outcome, Subscription):
                headers = (*outcome.headers, *admitted)
                outcome = msgspec.structs.replace(outcome, headers=headers)
            elif request.method != "HEAD":
                entered = await door.acquire_connection(visitor)
                if isinstance(entered, Response):
                    outcome = entered
                else:
                    self._ticket = entered
        if self._transport.is_closing():
            self._return_ticket()
        elif door.policy is not policy:  # the configuration has changed meanwhile
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
            self._wait_for(self._inquire(outcome))
        elif request.method == "HEAD":
            self._answer(Response(200, (("Content-Type", "text/event-stream"), *CORS_HEADERS), b""))
        elif outcome.websocket:
            self._become_websocket(outcome)
        else:
            lane = self._service.channels[outcome.stream, SSE]
            self._become(SSEClient(self._service.clients, lane, self._transport), outcome)

    def _peer(self) -> str:
        """The other end's address; nobody's if it has gone already."""
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
            compression=self._service.settings.websocket_compression,
        )
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            kept = [pair for pair in response.headers.raw_items() if pair[0] in _PASSED_HEADERS]
            text = bytes(response.body).decode().strip()
            code = _HANDSHAKE_CODES[response.status_code]
            self._answer(error_response(code, text, *kept))
            return
        self._transport.write(response.serialize())
        lane = self._service.channels[subscription.stream, DEFLATED if extensions else WEBSOCKET]
        client = WebSocketClient(self._service.clients, lane, self._transport, extensions)
        early = self._http.unread
        self._become(client, subscription)
        if early:
            client.data_received(early)

    def _become(self, client: SSEClient | WebSocketClient, subscription: Subscription) -> None:
        self._unregister()
        websocket = isinstance(client, WebSocketClient)
        self._service.metrics.observe_response(
            self._route, HTTPStatus.SWITCHING_PROTOCOLS if websocket else HTTPStatus.OK
        )
        lane = client.channel
        log.debug(
            "client connected",
            connection=self._number,
            stream=lane.ring.stream,
            form=lane.encoding.name,
            resumes=subscription.cursor is not None,
        )
        client.connection_id = self._number
        client.ticket, self._ticket = self._ticket, None
        self._transport.set_protocol(client)
        # The answers before may have paused it, and so may the head of this one.
        self._flow.end()
        client.attach(subscription.cursor)

    def _answer(self, answer: Response, *, close: bool = False) -> None:
        """Send an answer, and wait for the next request."""
        self._return_ticket()
        self._handler_task = None
        self._service.metrics.observe_response(self._route, answer.status)
        log.debug("answered", connection=self._number, route=self._route, status=answer.status)
        headers = [*answer.headers, _NOSNIFF]
        if self._restricted:  # scripts of other origins may not read it
            headers = [pair for pair in headers if not pair[0].startswith(CORS)]
        kept = self._arrival is None or self._arrival.may_idle
        close = close or self._last or not kept
        data = self._http.encode(answer.status, headers, answer.body, close=close)
        self._route = ELSEWHERE
        self._restricted = False
        self.phase = Phase.IDLE  # so that a write which blocks may say so
        self._transport.write(data)
        if not self._http.next_cycle():
            self._hang_up()
            return
        if not self._flow.blocked:
            self._enter(self._next_phase())
        # One request a turn of the loop, however many have come at once.
        self._flow.update(busy=bool(self._http.unread))
        if self._flow.busy:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._flow.update(busy=False)
        self._resume_pipelined()

    def _resume_pipelined(self) -> None:
        """Read requests that have come already."""
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
