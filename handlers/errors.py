"""What HTTP makes of a problem: one table. Entity routes answer with an OperationOutcome, the others with a problem+json."""

import orjson
from aiohttp import web
from aiohttp.typedefs import LooseHeaders

from base.errors import Category, InvalidToken, Problem
from r4.bundle import CONTENT_TYPE
from r4.outcome import outcome

# category: (status, FHIR issue type, reason in metrics)
STATUS: dict[Category, tuple[int, str]] = {
    Category.INVALID: (400, "invalid"),
    Category.NOT_PROCESSED: (404, "not-supported"),
    Category.UNAUTHENTICATED: (401, "login"),
    Category.FORBIDDEN: (403, "forbidden"),
    Category.NOT_FOUND: (404, "not-found"),
    Category.DELETED: (410, "deleted"),
    Category.METHOD: (405, "not-supported"),
    Category.NOT_ACCEPTABLE: (406, "not-supported"),
    Category.TOO_LARGE: (413, "too-long"),
    Category.UNSUPPORTED: (415, "not-supported"),
    Category.CONFLICT: (409, "conflict"),
    Category.TENANT_BUSY: (429, "throttled"),
    Category.SERVER_BUSY: (503, "transient"),
    Category.EXPIRED: (504, "timeout"),
    Category.BROKEN: (500, "exception"),
}
_HEADERS: dict[int, dict[str, str]] = {
    401: {"WWW-Authenticate": 'Bearer realm="sluice"'},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "1"},
}
_INVALID_TOKEN = {"WWW-Authenticate": 'Bearer realm="sluice", error="invalid_token"'}  # RFC 6750, 3.1
_HTTP_CODES = {404: "not-found", 405: "not-supported", 413: "too-long", 414: "too-long", 431: "too-long"}
_HTTP_WORDS = {404: "there is nothing at this path", 405: "this path does not take this method; Allow says which it takes"}
_UNKNOWN = "something went wrong here; the request id finds it in our log"


def problem_response(error: Problem, *, fhir: bool) -> web.Response:
    status, code = STATUS[error.category]
    # What broke on our side is told to the log, not to the client.
    message = _UNKNOWN if status == 500 else str(error)
    headers = _INVALID_TOKEN if isinstance(error, InvalidToken) else None
    return error_response(status, code, message, fhir=fhir, expression=error.expression, headers=headers)


def unknown_response(*, fhir: bool) -> web.Response:
    return error_response(500, "exception", _UNKNOWN, fhir=fhir)


def http_response(error: web.HTTPException, *, fhir: bool) -> web.Response:
    """Aiohttp's own refusals: no such route, method not allowed, body too large."""
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    code = _HTTP_CODES.get(error.status, "invalid" if error.status < 500 else "exception")
    return error_response(error.status, code, _HTTP_WORDS.get(error.status, error.reason), fhir=fhir, headers=headers)


def error_response(
    status: int, code: str, message: str, *, fhir: bool, expression: str | None = None, headers: LooseHeaders | None = None
) -> web.Response:
    body = outcome(code, message, expression=expression) if fhir else _problem_json(status, message)
    kind = CONTENT_TYPE if fhir else "application/problem+json"
    response = web.Response(status=status, body=body, headers={"Content-Type": kind, **_HEADERS.get(status, {})})
    response.headers.update(headers or {})
    return response


def _problem_json(status: int, message: str) -> bytes:
    return orjson.dumps({"type": "about:blank", "status": status, "detail": message})
