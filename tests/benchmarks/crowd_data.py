"""Stores a crowd for all its tenants, in a folder where later runs find it: `python -m tests.benchmarks.crowd_data --data DIR`.

It is made anew when the rows that an import would make of it have changed, or a migration; crowd_fill.py makes it.
"""

import argparse
import asyncio
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, fields
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncpg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from base import log
from storage.embedded import Cluster, running
from storage.migrate import migrations
from tests.benchmarks.crowd import Crowd, Size
from tests.benchmarks.crowd_fill import FIRST, Advance, fill

VERSION = 2
"""Of how it is stored, here and in crowd_fill.py; another one makes the data anew."""
DATA = Path(tempfile.gettempdir()) / "sluice-crowd"
LOADING = MappingProxyType(
    {
        "autovacuum": "off",
        "checkpoint_timeout": "1h",
        "fsync": "off",
        "full_page_writes": "off",
        "maintenance_work_mem": "1GB",
        "max_wal_senders": "0",
        "max_wal_size": "32GB",
        "synchronous_commit": "off",
        "wal_level": "minimal",  # what goes into a table emptied in the same transaction is not logged
    }
)
_SIZES = """
SELECT c.oid::regclass::text AS name, c.relkind = 'I' AS is_index,
       sum(pg_relation_size(t.relid))::bigint AS bytes, sum(p.reltuples)::bigint AS entries
FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
CROSS JOIN LATERAL pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid
WHERE c.relnamespace = 'fhir'::regnamespace AND c.relkind IN ('p', 'I') AND NOT c.relispartition AND t.isleaf
GROUP BY c.oid, i.indrelid ORDER BY coalesce(i.indrelid, c.oid)::regclass::text, is_index, name
"""


@dataclass(frozen=True)
class Stored:
    """A crowd in a running database: the tenants' keys in the order of their numbers, and what the loading took."""

    crowd: Crowd
    cluster: Cluster
    url: str
    keys: list[str]
    seconds: dict[str, float]


@contextmanager
def stored(data: Path, size: Size, *, anew: bool = False) -> Iterator[Stored]:
    """The data of this size with PostgreSQL as the product runs it, loaded first if it is not there as it should be."""
    crowd = Crowd.of(size)
    wanted = version_of(crowd)
    with running(data) as cluster:
        found = None if anew else asyncio.run(_found(cluster, crowd, wanted))
    if found is None:
        with running(data, LOADING) as cluster:
            asyncio.run(_load(cluster, crowd, wanted))
        os.sync()  # else the disk would still be writing while something is measured
    with running(data) as cluster:
        found = asyncio.run(_found(cluster, crowd, wanted))
        assert found is not None
        yield found


def version_of(crowd: Crowd) -> str:
    known = [VERSION, crowd.fingerprint().hex(), *(migration.sha256.hex() for migration in migrations())]
    return sha256(json.dumps(known).encode()).hexdigest()


def _database(size: Size) -> str:
    return "crowd_" + "_".join(map(str, astuple(size)))


def _url(cluster: Cluster, size: Size) -> str:
    return f"{cluster.url.rsplit('/', 1)[0]}/{_database(size)}"


async def _found(cluster: Cluster, crowd: Crowd, wanted: str) -> Stored | None:
    """None where there is none, or a stale one, or one whose loading was broken off."""
    url = _url(cluster, crowd.size)
    try:
        connection = await asyncpg.connect(url)
    except asyncpg.InvalidCatalogNameError:
        return None
    try:
        row = await connection.fetchrow("SELECT keys, seconds FROM public.crowd WHERE version = $1", wanted)
    except asyncpg.UndefinedTableError:
        return None
    finally:
        await connection.close()
    return None if row is None else Stored(crowd, cluster, url, row["keys"], json.loads(row["seconds"]))


async def _load(cluster: Cluster, crowd: Crowd, wanted: str) -> None:
    owner = await asyncpg.connect(cluster.url)
    await owner.execute(f"DROP DATABASE IF EXISTS {_database(crowd.size)} WITH (FORCE)")
    await owner.execute(f"CREATE DATABASE {_database(crowd.size)}")
    await owner.close()
    with progress_bars() as advance:
        await fill(_url(cluster, crowd.size), crowd, wanted, advance)


@contextmanager
def progress_bars() -> Iterator[Advance]:
    columns = (TextColumn("{task.description:>20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars: dict[str, Any] = {}

        def advance(what: str, more: int, whole: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=whole)
            progress.advance(bars[what], more)

        yield advance


async def sizes(found: Stored) -> Table:
    """Every table and index with its rows, its size, and the seconds that it took."""
    connection = await asyncpg.connect(found.url)
    rows = await connection.fetch(_SIZES)
    whole = await connection.fetchval("SELECT pg_database_size(current_database())")
    await connection.close()
    title = f"{whole / 1e9:.1f} GB, loaded in {found.seconds['all']:.0f} s, of it the first tenant {found.seconds[FIRST]:.0f} s"
    shown = Table("table or index", title=title)
    for column in ("entries", "MB", "seconds"):
        shown.add_column(column, justify="right")
    for name, is_index, size, entries in rows:
        shown.add_row("  " * is_index + name, f"{entries:,}", f"{size / 1e6:,.0f}", f"{found.seconds[name]:.1f}")
    return shown


def add_size(parser: argparse.ArgumentParser) -> None:
    """--data, and an option for each figure of Size."""
    for field in fields(Size):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    parser.add_argument("--data", type=Path, default=DATA, help="where PostgreSQL keeps it from run to run (%(default)s)")


def size_of(given: argparse.Namespace) -> Size:
    return Size(*(getattr(given, field.name) for field in fields(Size)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.crowd_data", description=__doc__)
    add_size(parser)
    parser.add_argument("--anew", action="store_true", help="load also what is there")
    given = parser.parse_args()
    log.configure(level=logging.WARNING)
    with ExitStack() as stack:
        found = stack.enter_context(stored(given.data, size_of(given), anew=given.anew))
        Console(width=100).print(asyncio.run(sizes(found)))


if __name__ == "__main__":
    main()
