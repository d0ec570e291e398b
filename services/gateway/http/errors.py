"""Error responses: a stable code for programs, and a text for people. Pure."""

import random
from enum import StrEnum, unique
from typing import Self

import msgspec
from msgspec import UNSET, UnsetType

from ctfilter import FilterError
from gateway.http.messages import CORS_HEADERS, JSON, NO_STORE, Response


@unique
class ErrorCode(StrEnum):
    """What a request failed on. Codes are stable: clients match on them.

    Attributes:
        status: HTTP status code of every response with this code.
        about: when a response has it, for the documentation.
    """

    status: int
    about: str

    def __new__(cls, value: str, status: int, about: str) -> Self:
        """Make a member of its three parts."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.status = status
        member.about = about
        return member

    BAD_REQUEST = "bad_request", 400, "The request line, a header or the framing is malformed."
    INVALID_HANDSHAKE = "invalid_handshake", 400, "The WebSocket handshake is malformed."
    INVALID_QUERY = "invalid_query", 400, "The query has too many fields."
    INVALID_FILTER = "invalid_filter", 400, "A filter is malformed, or not possible here."
    UNKNOWN_PARAMETER = "unknown_parameter", 400, "A parameter resembles one of a filter."
    INVALID_CURSOR = "invalid_cursor", 400, "`cursor` or `Last-Event-ID` is no id and no time."
    UNKNOWN_STREAM = "unknown_stream", 400, "`stream` is not `full`, `lite`, `domains` or `v2`."
    INVALID_HASH = "invalid_hash", 400, "The path does not end with a SHA-256 or SHA-1 in hex."
    TOKEN_REQUIRED = "token_required", 401, "The request has no token."
    INVALID_TOKEN = "invalid_token", 401, "The token is unknown or has expired."
    FORBIDDEN = (
        "forbidden",
        403,
        "The client's network is not in `allow`, or its token does not permit the stream.",
    )
    NOT_FOUND = "not_found", 404, "No endpoint has this path."
    DISABLED = "disabled", 404, "The configuration disables this endpoint or stream."
    CERTIFICATE_NOT_FOUND = "certificate_not_found", 404, "No retained certificate has this hash."
    METHOD_NOT_ALLOWED = "method_not_allowed", 405, "The method is not GET, HEAD or OPTIONS."
    REQUEST_TIMEOUT = "request_timeout", 408, "The request was incomplete after `request_timeout`."
    BODY_TOO_LARGE = "body_too_large", 413, "The request body exceeds 64 KiB or 1,024 chunks."
    BODY_NOT_SUPPORTED = "body_not_supported", 417, "The request expects `100 Continue`."
    UPGRADE_REQUIRED = "upgrade_required", 426, "The endpoint is a WebSocket."
    RATE_LIMITED = "rate_limited", 429, "`rate_limit` is exceeded; see `Retry-After`."
    ADDRESS_LIMIT = "address_limit", 429, "The client's address has too many connections."
    HEAD_TOO_LARGE = (
        "head_too_large",
        431,
        "The request's head or trailers exceed 16 KiB.",
    )
    INTERNAL_ERROR = "internal_error", 500, "The server failed; its log has the details."
    UNREADABLE_MESSAGE = "unreadable_message", 500, "A message in Redis could not be decoded."
    NOT_IMPLEMENTED = "not_implemented", 501, "The transfer coding is not supported."
    REDIS_UNAVAILABLE = "redis_unavailable", 503, "Redis does not answer."
    FILTER_LIMIT = "filter_limit", 503, "The server is at its limit of filters."
    CONNECTION_LIMIT = "connection_limit", 503, "The server is at its connection limit."
    RESPONSE_TIMEOUT = "response_timeout", 503, "The response took longer than `answer_timeout`."
    SHUTTING_DOWN = "shutting_down", 503, "The server is shutting down; connect to another one."
    VERSION_NOT_SUPPORTED = "version_not_supported", 505, "The HTTP version is not supported."


class ErrorBody(msgspec.Struct, frozen=True):
    """The JSON body of an error response.

    Attributes:
        error: what failed and what is accepted, for people; the text may change.
        code: what failed, for programs; stable.
        term: the part of a filter that is wrong.
        position: of `term` in the value of its parameter, in characters.
        suggestion: what may be meant instead.
    """

    error: str
    code: ErrorCode
    term: str | UnsetType = UNSET
    position: int | UnsetType = UNSET
    suggestion: str | UnsetType = UNSET


def error_response(code: ErrorCode, error: str, *headers: tuple[str, str]) -> Response:
    """Return an error response with the status of its code.

    Args:
        code: what failed.
        error: the text; begins with a capital.
        headers: further ones.
    """
    return Response(
        code.status,
        (JSON, *CORS_HEADERS, NO_STORE, *headers),
        msgspec.json.encode(ErrorBody(error, code)),
    )


def filter_error(error: FilterError) -> ErrorBody:
    """Return what is wrong with a filter."""
    suggestion = error.suggestion or UNSET
    text = f"Invalid filter: {error}"
    return ErrorBody(text, ErrorCode.INVALID_FILTER, error.term, error.position, suggestion)


def filter_response(error: FilterError) -> Response:
    """Return the response to a filter that is not valid."""
    body = filter_error(error)
    return Response(body.code.status, (JSON, *CORS_HEADERS, NO_STORE), msgspec.json.encode(body))


def internal_error() -> Response:
    """Return the response to a request on which this server failed."""
    return error_response(ErrorCode.INTERNAL_ERROR, "Internal server error")


def redis_unavailable() -> Response:
    """Return the response to a request that needs Redis, while Redis is unavailable."""
    return error_response(
        ErrorCode.REDIS_UNAVAILABLE,
        "Service unavailable: cannot reach Redis; retry in 2 s",
        ("Retry-After", "2"),
    )


def disabled_response(setting: str) -> Response:
    """Return the response for an endpoint or stream that a setting disables."""
    return error_response(ErrorCode.DISABLED, f"Disabled by server configuration ({setting})")


def retry_after(seconds: float) -> tuple[str, str]:
    """Return the header Retry-After with jitter, so that rejected clients return spread in time.

    Args:
        seconds: minimum of the value; the maximum is half of it more, plus one second.
    """
    jitter = random.uniform(0, seconds / 2 + 1)  # noqa: S311  (spreads load, keeps no secret)
    return "Retry-After", str(round(seconds + jitter))
