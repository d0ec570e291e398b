"""One kind of request: where it is asked, what answers it, and what its answers look like.

The table of these (`table.py`) is what the router goes by, and what the OpenAPI document tells.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from certhttp.protocol import Request
from gateway.http.errors import ErrorBody, ErrorCode
from gateway.http.messages import Outcome


class ResponseSpec(msgspec.Struct, frozen=True):
    """One way in which a request is answered.

    Attributes:
        about: when, or what it is.
        shape: what its JSON is read into; None if it is no JSON.
        media: its types, one of them to each request; none if it has no body.
        codes: that the error has, if it is one.
    """

    about: str
    shape: Any = None
    media: tuple[str, ...] = ("application/json",)
    codes: tuple[ErrorCode, ...] = ()


def error_spec(about: str, *codes: ErrorCode) -> ResponseSpec:
    """Describe an error response that has one of these codes."""
    return ResponseSpec(about, ErrorBody, codes=codes)


class ParameterSpec(msgspec.Struct, frozen=True):
    """A part of a request.

    Attributes:
        name: as it is sent.
        place: where.
        about: what it says.
        schema: of its value, in JSON Schema's words.
    """

    name: str
    place: Literal["path", "query", "header"]
    about: str
    schema: Mapping[str, Any]


class Route(msgspec.Struct, frozen=True):
    """One kind of request.

    Attributes:
        path: where; its last part may be a parameter, `{name}`.
        about: what for, in one line.
        answer: to a GET of it.
        replies: of `answer`, by status; what any request may be told is not repeated here.
        parameters: of the request.
        switch: the setting that has to be on, as in "protocols.api"; "" if it is always there.
        stream: what a WebSocket gets here; "" if it is none.
        also: further paths at which it is asked.
        revalidates: whether who has the answer already is told so (RFC 9110 section 13).
    """

    path: str
    about: str
    answer: Callable[[Request], Outcome]
    replies: Mapping[int, ResponseSpec]
    parameters: tuple[ParameterSpec, ...] = ()
    switch: str = ""
    stream: str = ""
    also: tuple[str, ...] = ()
    revalidates: bool = False
