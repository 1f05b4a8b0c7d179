"""The roof: the only place where the parts are put together. Read this first."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from base.config import Config, is_loopback
from base.tracing import is_on
from handlers import health, metadata, reports, warmup, wellknown
from handlers.console import routes as console
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
from storage.collectors import Collector
from storage.connecting.listener import Listener, tenant_in
from storage.connecting.opening import opened
from storage.connecting.servers import Storage
from storage.connecting.watch import Primary
from storage.hot import hot_statements
from storage.keys import KeyRing
from storage.warmth import CHANGED
from tenants.deadlines import Deadlines
from tenants.direct import DirectLine
from tenants.dispatcher import SLOTS, Dispatcher
from tenants.registry import TenantRegistry

CONFIG: web.AppKey[Config] = web.AppKey("config", Config)
HOT = (*hot_statements(), *keys.HOT, *warmth.HOT)
"""What every connection of the API prepares as it opens."""
Gather = Callable[[Metrics], Awaitable[Snapshot]]
GATHER: web.AppKey[Gather] = web.AppKey("gather", Callable)  # type: ignore[arg-type]
MakeDispatcher = Callable[..., Dispatcher]
DISPATCHER: web.AppKey[MakeDispatcher] = web.AppKey("dispatcher", Callable)  # type: ignore[arg-type]
COLLECTS: web.AppKey[bool] = web.AppKey("collects", bool)


async def own_snapshot(metrics: Metrics) -> Snapshot:
    return metrics.snapshot()


def create_app(
    config: Config,
    *,
    entity_handler: Handler = entity,
    gather: Gather = own_snapshot,
    make_dispatcher: MakeDispatcher = Dispatcher,
    collects: bool = True,
) -> web.Application:
    """`entity_handler` and `make_dispatcher` are others only in benchmarks, which put less behind the same middlewares.

    `collects`: this process looks at the database for the metrics. Of several that make one scrape one is enough.
    """
    app = web.Application(middlewares=_middlewares(config))
    if is_on(config):
        from app.traced import traced

        entity_handler, make_dispatcher = traced(app, config, entity_handler, make_dispatcher)
    app[CONFIG] = config
    app[GATHER] = gather
    app[DISPATCHER] = make_dispatcher
    app[COLLECTS] = collects
    app.cleanup_ctx.append(lifespan)
    app.router.add_get("/health/live", health.live)
    app.router.add_get("/health/ready", health.ready)
    app.router.add_get("/metrics", health.metrics)
    app.router.add_post("/warm-up", warmup.warm_up)
    app.router.add_get("/warm-up", warmup.standing)
    app.router.add_delete("/warm-up", warmup.cool_down)
    reports.add_routes(app, config.report_pool_size)
    console.add_routes(app)
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
    async with open_services(app[CONFIG], app[GATHER], app[DISPATCHER], collects=app[COLLECTS]) as services:
        app[SERVICES] = services
        yield


@contextlib.asynccontextmanager
async def open_services(
    config: Config,
    gather: Gather = own_snapshot,
    make_dispatcher: MakeDispatcher = Dispatcher,
    *,
    collects: bool = True,
) -> AsyncIterator[Services]:
    metrics = Metrics()
    metrics.add_process(config.data_dir)
    reports.begin_at_zero(metrics)
    # The pools are closed last of all.
    async with opened(config, metrics, HOT) as (storage, primary):
        dispatcher = make_dispatcher(storage, metrics, total_max=config.queue_total)
        collector = Collector(metrics, primary.connect) if collects else None
        async with _running(config, metrics, storage, primary, dispatcher, gather, collector) as services:
            yield services


@contextlib.asynccontextmanager
async def _running(
    config: Config,
    metrics: Metrics,
    storage: Storage,
    primary: Primary,
    dispatcher: Dispatcher,
    gather: Gather,
    collector: Collector | None,
) -> AsyncIterator[Services]:
    deadlines, stop = Deadlines(), asyncio.Event()
    registry = TenantRegistry(config, storage, dispatcher, deadlines, metrics)
    kept = 1 if config.channels == "off" else SLOTS + 1  # without channels nobody else has a use for theirs
    direct = DirectLine(
        storage, dispatcher, slots=storage.api.size - kept, tenant_max=config.queue_size, total_max=config.queue_total
    )
    listener = Listener(
        primary.connect,
        CHANGED,
        parse=tenant_in,
        changed=lambda _connection, tenants: registry.follow(tenants),
        connected=lambda _connection: registry.restore(),
        own_backends=storage.backends,
    )
    keys = KeyRing(storage, config.key_ttl_s)
    tokens = Tokens(config, keys) if config.jwt_issuers else None
    try:
        async with asyncio.TaskGroup() as tasks:
            for loop in (watch_loop(metrics.loop_lag.child(), stop), dispatcher.run(), registry.run(), listener.run()):
                tasks.create_task(loop)
            if collector is not None:
                tasks.create_task(collector.run(stop))
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
            # No request comes any more: whatever waits is answered, then the loops end.
            await direct.close()
            dispatcher.close()
            registry.close()
            listener.close()
            stop.set()
    finally:
        if tokens is not None:
            await tokens.close()
        deadlines.close()


async def _cursor_secret(config: Config, storage: Storage) -> bytes:
    if config.secret:
        return config.secret.encode()
    async with storage.latest() as connection:
        rows = await connection.fetch("SELECT ops.cursor_secret()")
    return bytes(rows[0][0])
