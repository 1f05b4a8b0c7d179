"""A process's connections: to the one server that there is, or to several whose roles are watched."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from base.config import Config
from metrics.catalog import Catalogue, Metrics
from storage.connecting.addresses import Address, servers_of
from storage.connecting.floors import CHANGED, Floors
from storage.connecting.listener import Listener, tenant_in
from storage.connecting.pools import api_lender, read_pools, report_lender
from storage.connecting.servers import Place, Spread, Storage
from storage.connecting.watch import Primary, Watch, watching


@asynccontextmanager
async def opened(config: Config, metrics: Metrics, hot: Sequence[str]) -> AsyncIterator[tuple[Storage, Primary]]:
    """`hot` are the statements that every connection of the API prepares as it opens.

    Raises what connecting raises; of several servers it is enough that one is there.
    """
    if addresses := servers_of(config):
        async with _several(config, metrics, hot, addresses) as found:
            yield found
        return
    api, report = api_lender(config, metrics, hot), report_lender(config, metrics)
    read_pools(metrics, lambda: (api, report))
    try:
        await api.open()
        if config.report_database_url:
            report.start()  # a server of the reports' own that is away keeps nobody else from being served
        else:
            await report.open()
        yield Storage(api, report), Primary(config.database_url)
    finally:
        await api.close()
        await report.close()


@asynccontextmanager
async def primary_of(config: Config, metrics: Catalogue) -> AsyncIterator[Primary]:
    """For who only writes."""
    if addresses := servers_of(config):
        async with watching(addresses, lag_max_s=config.replica_lag_s, metrics=metrics) as watch:
            yield watch
    else:
        yield Primary(config.database_url)


@asynccontextmanager
async def _several(
    config: Config, metrics: Metrics, hot: Sequence[str], addresses: Sequence[Address]
) -> AsyncIterator[tuple[Storage, Primary]]:
    async with watching(addresses, lag_max_s=config.replica_lag_s, metrics=metrics) as watch:
        places = _places(config, metrics, hot, watch)
        lenders = [lender for place in places for lender in (place.api, place.report)]
        read_pools(metrics, lambda: lenders)
        floors = Floors()
        listener = Listener(
            watch.connect,
            CHANGED,
            parse=tenant_in,
            heard=floors.heard,
            changed=floors.changed,
            connected=floors.connected,
            lost=floors.lost,
        )
        listening = asyncio.create_task(listener.run())
        try:
            await _open(places, watch)
            yield Spread(watch, floors, places), watch
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await asyncio.gather(*(lender.close() for lender in lenders))


def _places(config: Config, metrics: Metrics, hot: Sequence[str], watch: Watch) -> list[Place]:
    return [
        Place(
            server,
            api_lender(config, metrics, hot, server.url),
            report_lender(config, metrics, watch.at(server, config.report_database_url)),
            metrics.database_reads,
        )
        for server in watch.servers
    ]


async def _open(places: Sequence[Place], watch: Watch) -> None:
    """The primary's are there when it returns; the others come as their servers do."""
    for place in places:
        if watch.here and place.server is watch.primary:
            await place.api.open()
            await place.report.open()
        else:
            place.api.start()
            place.report.start()
