"""A connection before it is a client: HTTP/1.1, spoken by h11.

Requests that pass the door are answered at once. One that subscribes turns the connection over to
a client's protocol, and everything about HTTP is forgotten. What waits for a request costs a timer,
and a peer that takes too long over one (slowloris) is cut off.
"""

import asyncio
from collections.abc import Coroutine
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, cast

import h11
import msgspec
import structlog

from gateway.admission.door import Door, Ticket
from gateway.admission.visitor import Visitor
from gateway.deflate import DEFLATED
from gateway.exchange import OPEN, Answer, Later, Outcome, Request, Subscription, refuse
from gateway.frames import SSE, WEBSOCKET
from gateway.reading import read
from gateway.routes import ELSEWHERE, Routes
from gateway.service import Service
from gateway.sse import SSEClient
from gateway.websocket import WebSocketClient, accept

_MAX_HEAD: Final = 16 * 1024  # bytes of a request's head
_MAX_BODY: Final = 64 * 1024  # bytes of a body that nobody wants

log = structlog.get_logger(__name__)


class HTTPConnection(asyncio.Protocol):
    """Reads requests and answers them, until one subscribes.

    Args:
        service: what it shares with all others.
        routes: say what to do about a request.
        door: says whether to do it; None lets everything in.
    """

    __slots__ = (
        "_asking",
        "_body",
        "_door",
        "_http",
        "_number",
        "_request",
        "_route",
        "_routes",
        "_service",
        "_timer",
        "_transport",
    )

    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(self, service: Service, routes: Routes, door: Door | None = None) -> None:
        self._service = service
        self._number = next(service.numbers)
        self._routes = routes
        self._route = ELSEWHERE  # that the request being answered has taken
        self._door = door
        self._asking: asyncio.Task[None] | None = None
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._request: h11.Request | None = None
        self._body = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        # uvloop's transports are, but do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        if transport.get_extra_info("sslcontext") is None:
            self._write_through()
        else:  # uvloop sends the end of the handshake in the next turn; until then it would pause
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._write_through)
        self._service.waiting.add(self)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The peer has gone."""
        if self._asking is not None:
            self._asking.cancel()
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Go on with the request."""
        self._http.receive_data(data)
        self._advance()

    def pause_writing(self) -> None:
        """Answers are not read: read no requests."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Answers are read again."""
        if self._asking is None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def _write_through(self) -> None:
        """Hand writes to the kernel at once, and be paused as soon as it takes no more.

        A mark of zero would always be reached with uvloop's TLS.
        """
        self._transport.set_write_buffer_limits(high=1, low=0)

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._service.settings.request_timeout, self._expire)

    def _expire(self) -> None:
        if self._http.their_state is h11.IDLE and self._http.trailing_data[0]:
            self._answer(refuse(408, "the request took too long"), close=True)
        self._transport.close()
        # One that does not take even the answer.
        asyncio.get_running_loop().call_later(
            self._service.settings.close_timeout, self._transport.abort
        )

    def _forget(self) -> None:
        self._timer.cancel()
        self._service.waiting.discard(self)

    def _advance(self) -> None:
        while not self._transport.is_closing():
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._answer(refuse(error.error_status_hint, str(error)), close=True)
                return
            match event:
                case h11.Request():
                    self._request = event
                    self._body = 0
                    if self._http.they_are_waiting_for_100_continue:
                        self._answer(refuse(417, "no body is wanted here"), close=True)
                case h11.Data():
                    self._body += len(event.data)
                    if self._body > _MAX_BODY:
                        self._answer(refuse(413, "no body is wanted here"), close=True)
                case h11.EndOfMessage():
                    assert self._request is not None
                    self._respond(self._request)
                    return
                case h11.ConnectionClosed():
                    self._transport.close()
                case _:  # NEED_DATA
                    return

    def _respond(self, received: h11.Request) -> None:
        try:
            request = read(received, self._service.settings.base_path)
        except ValueError as error:
            self._answer(refuse(400, str(error)))
            return
        self._route = self._routes.label(request)
        door = self._door
        visitor = None if door is None else door.identify(request, self._peer())
        if isinstance(visitor, Answer):
            self._answer(visitor)
        elif door is None or visitor is None:
            self._proceed(received, self._routes.respond(request), None)
        elif door.waits(request):
            self._pause_for(self._ask(door, visitor, received, request))
        else:
            outcome = self._routes.respond(request)
            subscribes = isinstance(outcome, Subscription) and received.method != b"HEAD"
            ticket = door.enter_unlimited(visitor) if subscribes else None
            self._proceed(received, outcome, ticket)

    def _pause_for(self, asking: Coroutine[Any, Any, None]) -> None:
        self._transport.pause_reading()
        self._asking = asyncio.get_running_loop().create_task(asking)
        self._asking.add_done_callback(self._asked)

    def _asked(self, asking: "asyncio.Task[None]") -> None:
        """Whatever goes wrong, the client need not wait for an answer that does not come."""
        error = None if asking.cancelled() else asking.exception()
        if error is None:
            return
        log.error(
            "a request could not be answered",
            connection=self._number,
            route=self._route,
            exc_info=error,
        )
        if self._http.our_state is h11.SEND_RESPONSE and not self._transport.is_closing():
            self._answer(refuse(500, "this server failed to answer"), close=True)
        self._transport.close()

    async def _inquire(self, later: Later) -> None:
        """Answer once others have."""
        answer = await later.ask()
        self._asking = None
        if not self._transport.is_closing():
            self._transport.resume_reading()
            headers = (*answer.headers, *later.headers)
            self._answer(msgspec.structs.replace(answer, headers=headers))

    async def _ask(
        self, door: Door, visitor: Visitor, received: h11.Request, request: Request
    ) -> None:
        """Go on with a request once Redis has said what there is to say about it."""
        policy = door.policy
        ticket: Ticket | Answer | None = None
        admitted = await door.admit(visitor)
        outcome = admitted if isinstance(admitted, Answer) else self._routes.respond(request)
        if isinstance(outcome, Subscription):
            if received.method != b"HEAD":
                ticket = await door.enter(visitor)
        elif not isinstance(admitted, Answer):
            outcome = msgspec.structs.replace(outcome, headers=(*outcome.headers, *admitted))
        self._asking = None
        if isinstance(ticket, Answer):
            outcome, ticket = ticket, None
        outdated = door.policy is not policy  # the configuration has changed meanwhile
        if ticket is not None and (outdated or self._transport.is_closing()):
            ticket.give_back()
        if self._transport.is_closing():
            return
        self._transport.resume_reading()
        if outdated:
            self._respond(received)
            return
        self._proceed(received, outcome, ticket)

    def _proceed(self, received: h11.Request, outcome: Outcome, ticket: Ticket | None) -> None:
        if isinstance(outcome, Answer):
            self._answer(outcome)
        elif isinstance(outcome, Later):
            self._pause_for(self._inquire(outcome))
        elif received.method == b"HEAD":
            self._answer(Answer(200, (("Content-Type", "text/event-stream"), *OPEN), b""))
        elif outcome.websocket:
            self._become_websocket(received, outcome, ticket)
        else:
            lane = self._service.lanes[outcome.stream, SSE]
            self._become(SSEClient(self._service, lane, self._transport), outcome, ticket)

    def _peer(self) -> str:
        """The other end's address; nobody's if it has gone already."""
        peername = self._transport.get_extra_info("peername")
        return str(peername[0]) if peername else "::"

    def _become_websocket(
        self, received: h11.Request, subscription: Subscription, ticket: Ticket | None
    ) -> None:
        headers = [(name.decode(), value.decode("latin-1")) for name, value in received.headers]
        response, extensions = accept(
            received.target.decode(),
            headers,
            received.method.decode(),
            received.http_version.decode(),
            compression=self._service.settings.websocket_compression,
        )
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            if ticket is not None:
                ticket.give_back()
            kept = [pair for pair in response.headers.raw_items() if pair[0] in _KEPT]
            why = bytes(response.body).decode().strip()
            self._answer(refuse(response.status_code, why, *kept))
            return
        self._transport.write(response.serialize())
        lane = self._service.lanes[subscription.stream, DEFLATED if extensions else WEBSOCKET]
        client = WebSocketClient(self._service, lane, self._transport, extensions)
        early, _ = self._http.trailing_data
        self._become(client, subscription, ticket)
        if early:
            client.data_received(early)

    def _become(
        self,
        client: SSEClient | WebSocketClient,
        subscription: Subscription,
        ticket: Ticket | None,
    ) -> None:
        self._forget()
        websocket = isinstance(client, WebSocketClient)
        self._service.meter.answered(
            self._route, HTTPStatus.SWITCHING_PROTOCOLS if websocket else HTTPStatus.OK
        )
        lane = client.lane
        log.debug(
            "client connected",
            connection=self._number,
            stream=lane.ring.stream,
            form=lane.form.name,
            resumes=subscription.cursor is not None,
        )
        client.number = self._number
        client.ticket = ticket
        self._transport.set_protocol(client)
        client.join(subscription.cursor)

    def _answer(self, answer: Answer, *, close: bool = False) -> None:
        self._service.meter.answered(self._route, answer.status)
        log.debug("answered", connection=self._number, route=self._route, status=answer.status)
        self._route = ELSEWHERE
        headers = [*answer.headers, _NO_SNIFFING, ("Date", formatdate(usegmt=True))]
        if answer.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            headers.append(("Content-Length", str(len(answer.body))))
        if close:
            headers.append(("Connection", "close"))
        http = self._http
        reason = HTTPStatus(answer.status).phrase
        head = h11.Response(status_code=answer.status, headers=headers, reason=reason)
        parts = [http.send(head)]
        if self._request is None or self._request.method != b"HEAD":
            parts.append(http.send(h11.Data(answer.body)))
        parts.append(http.send(h11.EndOfMessage()))
        self._transport.write(b"".join(part for part in parts if part))
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            self._transport.close()
            return
        http.start_next_cycle()
        self._request = None
        self._timer.cancel()
        self._wait()
        if http.trailing_data[0]:  # one request a turn of the loop, however many come at once
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._advance()


_NO_SNIFFING: Final = ("X-Content-Type-Options", "nosniff")
_KEPT: Final = ("Allow", "Upgrade")
"""Headers of a refused handshake that are passed on; the others h11 and `_answer` write."""
