"""The servers that `make bench` compares: the same middlewares with less and less of us behind them.

`python -m tests.benchmarks.variants NAME` serves one, with SLUICE_* from the environment, and prints its port.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import asyncpg
import uvloop
from aiohttp import web

from app.main import create_app
from base import log
from base.config import Config
from handlers.exchange import EXCHANGE
from handlers.protocol import serve, until_told
from metrics.accumulators import Count, Distribution, Family
from metrics.catalog import STAGES, Metrics
from r4.bundle import CONTENT_TYPE
from storage.connecting.pools import api_size

BODY = b'{"resourceType":"Patient","id":"p","text":"' + b"x" * 760 + b'"}'
"""As large as the benchmark's patients."""

POOL: web.AppKey["asyncpg.Pool[asyncpg.Record]"] = web.AppKey("pool", asyncpg.Pool)
SWITCH = signal.SIGRTMIN
"""Only metrics_cost.py sends it: see `switched`."""
_PATIENT = """
SELECT version, last_updated, body FROM fhir.resource
WHERE tenant_id = $1 AND id = $2 AND type = 'Patient' AND NOT deleted
"""


def bare(_: Config) -> web.Application:
    """aiohttp, and nothing else."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=BODY, headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/patients/{id}", answer)
    return app


def shell(config: Config) -> web.Application:
    """Our middlewares around a constant body."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=BODY, headers={"Content-Type": CONTENT_TYPE, "ETag": 'W/"1"'})

    return create_app(config, entity_handler=answer)


def plain(config: Config) -> web.Application:
    """Our middlewares around what one writes first: asyncpg's Pool, one statement a request."""

    async def opened(app: web.Application) -> AsyncIterator[None]:
        size = api_size(config) - 1  # as many as direct has, without channels
        async with asyncpg.create_pool(config.database_url, min_size=size, max_size=size) as pool:
            app[POOL] = pool
            yield

    async def answer(request: web.Request) -> web.Response:
        identity = request[EXCHANGE].identity
        assert identity is not None
        row = await request.app[POOL].fetchrow(_PATIENT, identity.tenant_id, request.match_info["id"])
        if row is None:
            raise web.HTTPNotFound
        headers = {"Content-Type": CONTENT_TYPE, "ETag": f'W/"{row["version"]}"'}
        return web.Response(body=row["body"], headers=headers)

    app = create_app(config, entity_handler=answer)
    app.cleanup_ctx.append(opened)
    return app


class Nothing:
    """A slot that does nothing."""

    def add(self, _amount: float = 1.0) -> None: ...

    def observe(self, _value: float) -> None: ...


def silenced() -> Iterator[None]:
    """At each step metrics stop to count, or go on: in one process, for two differ by more than what metrics cost."""
    nothing = Nothing()
    answered = (nothing, (nothing,) * len(STAGES))
    silent = {
        (Distribution, "observe"): Nothing.observe,
        (Count, "add"): Nothing.add,
        (Family, "child"): lambda *_: nothing,
        (Metrics, "answered"): lambda *_: answered,
    }
    real = {(kind, name): getattr(kind, name) for kind, name in silent}
    while True:
        for methods in (silent, real):
            for (kind, name), method in methods.items():
                setattr(kind, name, method)
            yield


def switched(config: Config) -> web.Application:
    """The whole server, whose metrics are switched off and on by a signal."""
    switch = silenced()
    signal.signal(SWITCH, lambda *_: next(switch))
    return create_app(config)


VARIANTS: dict[str, Callable[[Config], web.Application]] = {
    "bare": bare,
    "shell": shell,
    "plain": plain,
    "direct": create_app,
    "channel": create_app,
}


async def _serve(name: str, config: Config) -> None:
    async def ready(_app: web.Application, port: int) -> None:
        print(port, flush=True)

    await serve({**VARIANTS, "switched": switched}[name](config), host="127.0.0.1", port=0, stop=until_told(), ready=ready)


if __name__ == "__main__":
    log.configure()
    uvloop.run(_serve(sys.argv[1], Config.from_mapping(os.environ)))
