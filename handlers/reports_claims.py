"""From a report's row to all that is known of the claim, and from there to the files as they came. It is read live."""

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import quote

import msgspec
from aiohttp import web

from base.errors import NotFound
from handlers.reports_answers import PRIVATE, has_etag, tenant_of, time_text, who
from handlers.reports_query import is_text, parameters_of
from handlers.services import SERVICES
from storage.connecting.connections import Connection
from storage.reports import claim_parts, raw_file, read

CLAIM_PATH = "/reports/claims/{provider}/{claim}"
FILE_PATH = "/reports/files/{licence}/{file_id}"
CLAIM_TEMPLATE = "/reports/claims/{provider_id}/{claim_id}"
"""RFC 6570, level 1, in the names of a report's columns: the way from a row to its claim."""

_SEGMENT = r"{\1:[^/]+}"
# aiohttp's own pattern for a part of a path takes no braces.
CLAIM_ROUTE, FILE_ROUTE = (re.sub(r"{(\w+)}", _SEGMENT, path) for path in (CLAIM_PATH, FILE_PATH))
_LARGE = 1024 * 1024
T = TypeVar("T")


def file_link(base_url: str, licence: str, file_id: str) -> str:
    return f"{base_url}/reports/files/{quote(licence, safe='')}/{quote(file_id, safe='')}"


async def claim(request: web.Request) -> web.Response:
    """The claim as it is now, whatever the reports show yet. Raises NotFound, also for another tenant's."""
    at, parts = await _found(request, claim_parts, ("provider", "claim"), absent="there is no such claim")
    body: dict[str, object] = {name: msgspec.Raw(text.encode()) for name, text in parts.items()}
    for name in ("diagnoses", "remittances", "events"):
        body[name] = _with_files(parts[name], request.app[SERVICES].config.base_url)
    body = {"as_of": time_text(at), **body}
    encoded = msgspec.json.format(msgspec.json.encode(body), indent=-1)
    return web.Response(body=encoded, content_type="application/json", headers=PRIVATE)


def _with_files(members: str, base_url: str) -> list[dict[str, msgspec.Raw]]:
    """Each with a link to its file. Digits stay as they were written."""
    found = msgspec.json.decode(members, type=list[dict[str, msgspec.Raw]])
    for member in found:
        licence, file_id = (msgspec.json.decode(member[name], type=str | None) for name in ("facility", "file_id"))
        if licence and file_id:
            member["file"] = msgspec.Raw(msgspec.json.encode(file_link(base_url, licence, file_id)))
    return found


async def file(request: web.Request) -> web.Response:
    """The document byte by byte. Raises NotFound, also for another tenant's."""
    found = await _found(request, raw_file, ("licence", "file_id"), absent="there is no such file")
    headers = {"ETag": f'"{found.sha256.hex()}"', "X-Content-Type-Options": "nosniff", **PRIVATE}
    if has_etag(",".join(request.headers.getall("If-None-Match", [])), headers["ETag"]):
        return web.Response(status=304, headers=headers)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", found.name)[:150]
    headers["Content-Disposition"] = f'attachment; filename="{name}"'
    # What could not be read as claims may be anything.
    kind = "application/xml" if found.kind else "application/octet-stream"
    return web.Response(body=await _unpacked(found.body), content_type=kind, headers=headers)


async def _unpacked(body: bytes) -> bytes:
    if len(body) < _LARGE:
        return zlib.decompress(body)
    return await asyncio.get_running_loop().run_in_executor(None, zlib.decompress, body)


async def _found(
    request: web.Request,
    find: Callable[[Connection, int, str, str], Awaitable[T | None]],
    names: tuple[str, str],
    *,
    absent: str,
) -> T:
    """What the tenant has by the two names in the path."""
    parameters_of(request, ())
    services, identity = who(request)
    tenant_id, (first, second) = tenant_of(identity), (request.match_info[name] for name in names)
    found = None
    if is_text(first) and is_text(second):
        patience_s = services.config.pool_acquire_s
        found = await read(
            services.storage, tenant_id, patience_s, lambda connection: find(connection, tenant_id, first, second)
        )
    if found is None:
        raise NotFound(absent)
    return found
