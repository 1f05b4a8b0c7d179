"""`sluice worker`: polls facilities and keeps the report views, until it is told to end, with metrics on a port of its own."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator
from functools import partial

import structlog
import uvloop
from aiohttp import web
from rich.console import Console

from app.database import database
from app.dump import dumping, listen
from app.dump_state import of_worker
from app.worker_display import showing
from base import log as logs
from base.config import Config, ConfigError
from base.tracing import tracing
from handlers.protocol import until_told
from ingestion.credentials import Vault
from ingestion.loader import Loader
from ingestion.mapping.from_claims import Naming
from ingestion.polling.braking import Brakes
from ingestion.polling.jobs import Jobs
from ingestion.polling.means import Means
from ingestion.polling.pace import Budget
from ingestion.polling.poll import Poller
from ingestion.post_office.client import open_post_office
from metrics.catalog import WorkerMetrics
from metrics.exposition import CONTENT_TYPE, exposition
from metrics.loop_lag import watch_loop
from reporting.refreshing import refreshing
from storage.claims import identity_secret
from storage.collectors import Collector
from storage.connecting.connections import Lender
from storage.connecting.opening import primary_of
from storage.connecting.pools import ingest_lender, read_pools, warn_if_too_many
from storage.connecting.watch import Primary
from storage.migrate import migrate
from storage.reindex import warn_if_outdated

log = structlog.get_logger()

_MEGABYTE = 1024 * 1024


def work(given: Config) -> None:
    """Until SIGTERM or SIGINT: then no file is begun, and what was being loaded is left to the next poll."""
    display = Console(stderr=True) if Console(stderr=True).is_terminal else None
    logs.configure("worker", level=logging.WARNING if display else logging.INFO)
    listen()
    vault = Vault.from_config(given)
    with tracing(given, "worker"), database(given) as config:
        uvloop.run(_work(config, vault, display))


async def _work(config: Config, vault: Vault, display: Console | None) -> None:
    stop = until_told()
    await migrate(config.database_url)
    await warn_if_outdated(config.database_url)
    await warn_if_too_many(config, workers=1)
    metrics = WorkerMetrics()
    metrics.add_process(config.data_dir)
    async with _opened(config, vault, metrics) as (poller, brakes), asyncio.TaskGroup() as tasks:
        jobs = Jobs(config, poller.poll, poller.primary)
        metrics.jobs.read = lambda: [(key, float(number)) for key, number in jobs.sizes.items()]
        async with _served(config, metrics, poller.means.lender):
            views = refreshing(config, metrics, poller.primary)
            looking = Collector(metrics, poller.primary.connect, poll_interval_s=config.poll_interval_s)
            for loop in (watch_loop(metrics.loop_lag.child(), stop), brakes.run(stop), views.run(stop), looking.run(stop)):
                tasks.create_task(loop)
            gc.collect()
            gc.freeze()  # what is there now stays
            held = of_worker(poller, jobs, brakes, lambda: poller.means.budget.held)
            with showing(display, metrics, poller, brakes), dumping(held):
                await jobs.run(stop)
    log.info("worker.stopped")


@contextlib.asynccontextmanager
async def _opened(config: Config, vault: Vault, metrics: WorkerMetrics) -> AsyncIterator[tuple[Poller, Brakes]]:
    """Opened top to bottom, closed in reverse."""
    async with primary_of(config, metrics) as primary:
        lender = ingest_lender(config, metrics, lambda: primary.url(config.ingest_database_url))
        primary.moved.append(partial(lender.move, at_once=True))
        async with _polling(config, vault, metrics, primary, lender) as found:
            yield found


@contextlib.asynccontextmanager
async def _polling(
    config: Config, vault: Vault, metrics: WorkerMetrics, primary: Primary, lender: Lender
) -> AsyncIterator[tuple[Poller, Brakes]]:
    brakes, budget = Brakes(config, primary), Budget(config.ingest_mb * _MEGABYTE)
    await lender.open()
    try:
        async with lender.lend() as connection:
            key = await identity_secret(connection.raw)
        loader = Loader(Naming(key=key, base=config.identifier_base))
        try:
            means = Means(lender, loader, metrics, budget, lambda: brakes.now, config.ingest_files_max, config.poll_timeout_s)
            async with open_post_office() as office:
                poller = Poller(means, primary, office, vault.open)
                _read_gauges(metrics, poller, brakes, budget)
                yield poller, brakes
        finally:
            loader.close()
    finally:
        await lender.close()


def _read_gauges(metrics: WorkerMetrics, poller: Poller, brakes: Brakes, budget: Budget) -> None:
    read_pools(metrics, lambda: (poller.means.lender,))
    metrics.throttle.read = brakes.gauges
    metrics.polling.read = lambda: [((), float(len(poller.running)))]
    metrics.held_bytes.read = lambda: [((), float(budget.held))]


@contextlib.asynccontextmanager
async def _served(config: Config, metrics: WorkerMetrics, lender: Lender) -> AsyncIterator[None]:
    """/metrics, /health/live and /health/ready."""

    async def scrape(_: web.Request) -> web.Response:
        text = exposition(metrics.families, metrics.snapshot())
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def live(_: web.Request) -> web.Response:
        return web.json_response({"status": "live"})

    async def ready(_: web.Request) -> web.Response:
        """503 while the database is away; a pool that is busy is not."""
        return web.json_response({"status": "not ready" if lender.away else "ready"}, status=503 if lender.away else 200)

    app = web.Application()
    app.add_routes([web.get("/metrics", scrape), web.get("/health/live", live), web.get("/health/ready", ready)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, config.metrics_host, config.metrics_port).start()
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {config.metrics_host}:{config.metrics_port}: {error.strerror}; a worker beside another "
                "takes another port: SLUICE_METRICS_PORT, 0 for any that is free"
            ) from None
        log.info("worker.started", host=config.metrics_host, port=runner.addresses[0][1])
        yield
    finally:
        await runner.cleanup()
