"""A post office as its WSDL says, for tests, benchmarks and the demo: it serves what it was given, and misbehaves when told.

On loopback it has routes of its own, too: `GET /_admin/state`, and `PUT /_admin/facilities/{login}/behaviour` with a
Behaviour as JSON.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address

from aiohttp import web

from simulator.post_office_admin import OFFICE, add_admin
from simulator.post_office_behaviour import Behaviour
from simulator.post_office_box import Box
from simulator.post_office_operations import OPERATIONS
from simulator.post_office_soap import CONTENT_TYPES, Call, SoapFault, answer, fault, read, wsdl
from simulator.post_office_state import Entry, Office

__all__ = ["OFFICE", "PATH", "Behaviour", "Box", "Entry", "Office", "create_post_office", "serving"]

PATH = "/ValidateTransactions.asmx"
_BODY_MAX = 32 * 1024 * 1024


def create_post_office(boxes: Mapping[str, Box], *, admin: bool = True) -> web.Application:
    """`admin`: with its routes, which answer loopback only. Boxes may be added and changed while it runs, on its loop."""
    app = web.Application(client_max_size=_BODY_MAX)
    app[OFFICE] = Office(dict(boxes))
    app.router.add_get(PATH, _description)
    app.router.add_post(PATH, _soap)
    if admin:
        add_admin(app)
    app.on_shutdown.append(_let_go)
    return app


@asynccontextmanager
async def serving(boxes: Mapping[str, Box], *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Office]:
    """A post office on `port`, or a free one; beyond loopback without its admin routes."""
    app = create_post_office(boxes, admin=_is_loopback(host))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, reuse_address=True).start()
        app[OFFICE].url = f"http://{host}:{runner.addresses[0][1]}{PATH}"
        yield app[OFFICE]
    finally:
        await runner.cleanup()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _let_go(app: web.Application) -> None:
    app[OFFICE].closing.set()


async def _description(request: web.Request) -> web.Response:
    if "wsdl" not in request.query_string.lower():
        raise web.HTTPNotFound
    return web.Response(body=wsdl(str(request.url.with_query(None))), content_type="text/xml", charset="utf-8")


async def _soap(request: web.Request) -> web.StreamResponse:
    office = request.app[OFFICE]
    try:
        call = read(request.content_type, request.headers.get("SOAPAction"), await request.read())
        box = office.boxes.get(call.text("login"))
        if box is None or not hmac.compare_digest(box.profile.password.encode(), call.text("pwd").encode()):
            office.note(call, "-1")
            return _answered(call, answer(call, -1, errorMessage="login failed"))
        return await _asked(request, office, box, call)
    except SoapFault as error:
        status = 400 if error.version == "1.2" and error.status == 500 else error.status
        return web.Response(status=status, body=fault(error), headers={"Content-Type": CONTENT_TYPES[error.version]})


async def _asked(request: web.Request, office: Office, box: Box, call: Call) -> web.StreamResponse:
    """The answer, unless the box misbehaves before it, or with it."""
    box.requests[call.operation] += 1
    refused = await _misbehaved(office, box, call)
    if refused is not None:
        return refused
    body = OPERATIONS[call.operation](office.boxes, box, call)
    if call.operation == "SetTransactionDownloaded" and box.hits("ack_lost"):
        office.note(call, "lost")
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    if _is_met(box, call) and box.hits("cut"):
        office.note(call, "cut")
        return await _cut(request, call, body)
    if _is_met(box, call) and box.hits("truncated"):
        office.note(call, "truncated")
        return _answered(call, body[: len(body) // 2])
    office.note(call, _result_of(body))
    return _answered(call, body)


async def _misbehaved(office: Office, box: Box, call: Call) -> web.Response | None:
    """What is answered instead, after whatever wait."""
    if not _is_met(box, call):
        return None
    if box.behaviour.slow_s:
        await asyncio.sleep(box.behaviour.slow_s)
    if box.behaviour.hang:
        office.note(call, "hang")
        await _hang(office, box)
    if box.behaviour.login_failed:
        office.note(call, "-1")
        return _answered(call, answer(call, -1, errorMessage="login failed"))
    if box.hits("error"):
        office.note(call, "error")
        return web.Response(status=box.behaviour.error_status, text="the service is unavailable")
    if box.hits("transient"):
        office.note(call, "-4")
        return _answered(call, answer(call, -4, errorMessage="an unexpected error"))
    return None


async def _hang(office: Office, box: Box) -> None:
    """Until the behaviour changes, or the office closes."""
    waits = [asyncio.ensure_future(event.wait()) for event in (box.changed, office.closing)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _is_met(box: Box, call: Call) -> bool:
    return not box.behaviour.only or call.operation in box.behaviour.only


def _result_of(body: bytes) -> str:
    """The code that stands in front of an answer."""
    return body[: body.index(b"Result>", 0, 800) + 20].partition(b"Result>")[2].partition(b"<")[0].decode()


def _answered(call: Call, body: bytes) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPES[call.version]})


async def _cut(request: web.Request, call: Call, body: bytes) -> web.StreamResponse:
    """Half of what the headers promise."""
    response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPES[call.version], "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
