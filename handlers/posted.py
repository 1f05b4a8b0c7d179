"""The query of a request, with the form of a `POST _search` merged into it: https://hl7.org/fhir/R4/http.html#search."""

import asyncio
from urllib.parse import parse_qsl

from aiohttp import web

from base.errors import Expired, Invalid, TooLarge, Unsupported
from handlers.answers import Pairs

FORM = "application/x-www-form-urlencoded"
LONGEST_FORM = 65536
_FIELDS_MAX = 256


async def pairs_of(request: web.Request, patience_s: float) -> Pairs:
    """Raises Unsupported (415) for a body that is no form, TooLarge, Invalid, or Expired when it does not come in time."""
    asked = list(request.query.items()) if request.query_string else []
    if request.method != "POST" or not request.body_exists:
        return asked
    try:
        async with asyncio.timeout(patience_s):
            body = await request.content.read(LONGEST_FORM + 1)
            while body and len(body) <= LONGEST_FORM and (more := await request.content.read(LONGEST_FORM + 1)):
                body += more
    except TimeoutError:
        raise Expired("the form did not come in time") from None
    except web.RequestPayloadError:  # its chunks or its compression are none
        raise Invalid("the form cannot be read as it was sent") from None
    if len(body) > LONGEST_FORM:
        raise TooLarge(f"a search's form has at most {LONGEST_FORM} bytes")
    if not body:
        return asked  # some clients say application/octet-stream of nothing
    if request.content_type != FORM:
        raise Unsupported(f"_search takes {FORM}")
    try:
        return [*asked, *parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_FIELDS_MAX)]
    except ValueError:  # a UnicodeError is one
        raise Invalid("the form cannot be read as UTF-8 fields, or has too many") from None
