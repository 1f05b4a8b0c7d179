"""The database that a command uses: the one that SLUICE_DATABASE_URL names, else the embedded one."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from base.config import Config
from storage.connecting.addresses import servers_of
from storage.connecting.watch import find_primary
from storage.embedded import running


@contextmanager
def database(config: Config) -> Iterator[Config]:
    """The config with its database_url; an embedded server runs as long as anybody is inside.

    Of several servers it is the primary's: whichever that is now. Not to be called within an event loop.
    """
    if config.database_url:
        yield _at_primary(config)
        return
    with running(config.data_dir) as cluster:
        yield replace(config, database_url=cluster.url)


def _at_primary(config: Config) -> Config:
    servers = servers_of(config)
    if not servers:
        return config
    primary = asyncio.run(find_primary(servers))
    return replace(config, database_url=primary, replica_url=tuple(each.url for each in servers if each.url != primary))
