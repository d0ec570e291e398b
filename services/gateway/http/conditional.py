"""Answers that the client has already need not be sent again (RFC 9110 section 13)."""

from hashlib import blake2b
from http import HTTPStatus
from typing import Final

import msgspec

from certhttp.protocol import Request
from gateway.http.messages import DeferredResponse, Outcome, Response

_ASK: Final = ("Cache-Control", "no-cache")
"""May be kept, but is to be asked for again before it is used."""


def not_modified(request: Request, outcome: Outcome) -> Outcome:
    """Give an answer a tag; 304 if the request shows that the client has just this answer."""
    if isinstance(outcome, DeferredResponse):
        ask = outcome.ask

        async def compared() -> Response:
            return _compared(request, await ask())

        return msgspec.structs.replace(outcome, ask=compared)
    return _compared(request, outcome) if isinstance(outcome, Response) else outcome


def _compared(request: Request, answer: Response) -> Response:
    if answer.status != HTTPStatus.OK:
        return answer
    tag = f'"{blake2b(answer.body, digest_size=12).hexdigest()}"'
    headers = answer.headers
    if not any(name == "Cache-Control" for name, _ in headers):
        headers = (*headers, _ASK)
    headers = (*headers, ("ETag", tag))
    if _has(request.headers.get("if-none-match", ""), tag):
        kept = tuple(pair for pair in headers if pair[0] != "Content-Type")
        return Response(HTTPStatus.NOT_MODIFIED, kept, b"")
    return msgspec.structs.replace(answer, headers=headers)


def _has(listed: str, tag: str) -> bool:
    """Whether If-None-Match lists a tag; compared weakly, as proxies that compress weaken it."""
    tags = {part.strip().removeprefix("W/") for part in listed.split(",")}
    return tag in tags or tags == {"*"}
