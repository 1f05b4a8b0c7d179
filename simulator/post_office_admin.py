"""The post office's own routes: what it knows, and how its facilities misbehave. Loopback only."""

from ipaddress import ip_address

import msgspec
import orjson
from aiohttp import web

from simulator.post_office_behaviour import Behaviour
from simulator.post_office_state import Office

OFFICE = web.AppKey("office", Office)


def add_admin(app: web.Application) -> None:
    app.router.add_get("/_admin/state", _state)
    app.router.add_put("/_admin/facilities/{login}/behaviour", _behave)


async def _state(request: web.Request) -> web.Response:
    """With the log of requests for `?log`."""
    _check(request)
    state = request.app[OFFICE].state(with_log="log" in request.query)
    return web.Response(body=orjson.dumps(state), content_type="application/json")


async def _behave(request: web.Request) -> web.Response:
    _check(request)
    box = request.app[OFFICE].boxes.get(request.match_info["login"])
    if box is None:
        raise web.HTTPNotFound(text="no facility has this login")
    try:
        box.behave(msgspec.json.decode(await request.read(), type=Behaviour))
    except msgspec.DecodeError as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    return web.Response(status=204)


def _check(request: web.Request) -> None:
    if request.remote is None or not ip_address(request.remote).is_loopback:
        raise web.HTTPForbidden
