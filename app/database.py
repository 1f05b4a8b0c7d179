"""The database that a command uses: the one that SLUICE_DATABASE_URL names, else the embedded one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from base.config import Config
from storage.embedded import running


@contextmanager
def database(config: Config) -> Iterator[Config]:
    """The config with its database_url; an embedded server runs as long as anybody is inside."""
    if config.database_url:
        yield config
        return
    with running(config.data_dir) as cluster:
        yield replace(config, database_url=cluster.url)
