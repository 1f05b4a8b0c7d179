"""The roof: the only place where the parts are put together. Read this first."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from base.config import Config, is_loopback
from handlers import health, metadata, warmup, wellknown
from handlers.cors import preflight, sharing
from handlers.cursors import Cursors
from handlers.entity import entity
from handlers.middleware import observing
from handlers.routing import OPERATION_OF, routing
from handlers.services import SERVICES, Services
from handlers.tokens import Tokens
from metrics.accumulators import Snapshot
from metrics.catalog import Metrics
from metrics.loop_lag import watch_loop
from storage import keys, warmth
from storage.connections import API_SETTINGS, REPORT_SETTINGS, Lender
from storage.hot import hot_statements
from storage.keys import KeyRing
from storage.listener import Listener
from storage.servers import Storage
from storage.warmth import CHANGED
from tenants.deadlines import Deadlines
from tenants.direct import DirectLine
from tenants.dispatcher import SLOTS, Dispatcher
from tenants.registry import TenantRegistry

CONFIG: web.AppKey[Config] = web.AppKey("config", Config)
Gather = Callable[[Metrics], Awaitable[Snapshot]]
GATHER: web.AppKey[Gather] = web.AppKey("gather", Callable)  # type: ignore[arg-type]


async def own_snapshot(metrics: Metrics) -> Snapshot:
    return metrics.snapshot()


def create_app(config: Config, *, entity_handler: Handler = entity, gather: Gather = own_snapshot) -> web.Application:
    """`entity_handler` is another only in the benchmark, which puts less behind the same middlewares."""
    app = web.Application(middlewares=_middlewares(config))
    app[CONFIG] = config
    app[GATHER] = gather
    app.cleanup_ctx.append(lifespan)
    app.router.add_get("/health/live", health.live)
    app.router.add_get("/health/ready", health.ready)
    app.router.add_get("/metrics", health.metrics)
    app.router.add_post("/warm-up", warmup.warm_up)
    app.router.add_get("/warm-up", warmup.standing)
    app.router.add_delete("/warm-up", warmup.cool_down)
    app.router.add_get(metadata.PATH, metadata.metadata)
    metadata.statement(config)  # made now, for it is some work, and then kept
    for path in wellknown.PATHS:
        app.router.add_get(path, wellknown.smart_configuration)
    for route in OPERATION_OF:  # in the table's order: the seven before those that match any type
        if route.endswith("/_search"):
            app.router.add_post(route, entity_handler)
        else:
            app.router.add_get(route, entity_handler)
    return app


def _middlewares(config: Config) -> list[Middleware]:
    origins = config.cors_origins
    return [sharing(origins), observing, preflight(origins), routing] if origins else [observing, routing]


async def lifespan(app: web.Application) -> AsyncIterator[None]:
    """Opened top to bottom, closed in reverse: the pool last of all."""
    async with open_services(app[CONFIG], app[GATHER]) as services:
        app[SERVICES] = services
        yield


@contextlib.asynccontextmanager
async def open_services(config: Config, gather: Gather) -> AsyncIterator[Services]:
    metrics = Metrics()
    metrics.add_process()
    lender, report = _lender(config, metrics), _report_lender(config, metrics)
    storage, deadlines, stop = Storage(lender, report), Deadlines(), asyncio.Event()
    dispatcher = Dispatcher(storage, metrics, total_max=config.queue_total)
    registry = TenantRegistry(config, storage, dispatcher, deadlines, metrics)
    direct = DirectLine(
        storage, dispatcher, slots=config.pool_size - SLOTS - 1, tenant_max=config.queue_size, total_max=config.queue_total
    )
    listener = Listener(
        config.database_url, CHANGED, changed=registry.follow, connected=registry.restore, own_backends=lender.backends
    )
    keys = KeyRing(storage, config.key_ttl_s)
    tokens = Tokens(config, keys) if config.jwt_issuers else None
    await lender.open()
    await report.open()
    try:
        async with asyncio.TaskGroup() as tasks:
            for loop in (watch_loop(metrics.loop_lag.child(), stop), dispatcher.run(), registry.run(), listener.run()):
                tasks.create_task(loop)
            await registry.restore()
            yield Services(
                config=config,
                metrics=metrics,
                storage=storage,
                keys=keys,
                tokens=tokens,
                cursors=Cursors(await _cursor_secret(config, storage)),
                deadlines=deadlines,
                direct=direct,
                registry=registry,
                gather=lambda: gather(metrics),
                metrics_open=is_loopback(config.host),
            )
            # No request comes any more: whatever waits is answered, then the loops end, and the pool last of all.
            await direct.close()
            dispatcher.close()
            registry.close()
            listener.close()
            stop.set()
    finally:
        if tokens is not None:
            await tokens.close()
        deadlines.close()
        await lender.close()
        await report.close()


def _lender(config: Config, metrics: Metrics) -> Lender:
    """The API's connections. A statement ends before its request's deadline does."""
    settings = {**API_SETTINGS, "statement_timeout": str(max(int(config.deadline_s * 950), 50))}
    hot = (*hot_statements(), *keys.HOT, *warmth.HOT)
    lender = Lender("api", config.database_url, config.pool_size, settings, wait=metrics.pool_wait.child("api"), hot=hot)
    metrics.pool_connections.read = lambda: [(("api", state), number) for state, number in lender.counts().items()]
    metrics.pool_busy.read = lambda: [(("api",), lender.busy_s)]
    return lender


def _report_lender(config: Config, metrics: Metrics) -> Lender:
    settings = {**REPORT_SETTINGS, "statement_timeout": f"{config.report_timeout_s}s"}
    wait = metrics.pool_wait.child("report")
    return Lender("report", config.report_database_url or config.database_url, config.report_pool_size, settings, wait=wait)


async def _cursor_secret(config: Config, storage: Storage) -> bytes:
    if config.secret:
        return config.secret.encode()
    async with storage.latest() as connection:
        rows = await connection.fetch("SELECT ops.cursor_secret()")
    return bytes(rows[0][0])
