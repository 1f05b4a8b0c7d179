"""One real PostgreSQL for the run; a fresh database, migrated in a template, for each test that asks."""

import asyncio
import gc
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from storage.embedded import Cluster, throwaway
from storage.migrate import migrate

DATA = Path(__file__).parents[2] / "shared" / "data"
PROVE = bool(os.environ.get("SLUICE_PROVE"))
pytest_plugins = ("tests.logged",)
_numbers = itertools.count(1)
# How long an example takes, or its drawing, says something of who else is on the machine.
settings.register_profile("sluice", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sluice")


def pytest_collection_finish() -> None:
    """What is there before the first test stays to the end: to look through it for garbage again and again takes long.

    And looking seldom for what comes takes a twelfth less of the CPU; tests that count memory collect it themselves.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def database_url(cluster: Cluster, name: str) -> str:
    return cluster.url.rsplit("/", 1)[0] + f"/{name}"


async def make_database(cluster: Cluster, name: str, template: str = "template1") -> str:
    connection = await asyncpg.connect(cluster.url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    finally:
        await connection.close()
    return database_url(cluster, name)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    from tests.reading import close_all

    with throwaway() as cluster:
        yield cluster
        close_all()


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> str:
    async def make() -> None:
        await migrate(await make_database(cluster, "migrated"))

    asyncio.run(make())
    return "migrated"


@pytest.fixture(scope="session")
def primary() -> Iterator[Any]:
    """What the primaries of tests/replicas.py begin as: a Node."""
    from tests.replicas import migrated

    with migrated() as node:
        yield node


@pytest.fixture
async def database(cluster: Cluster, template: str) -> AsyncIterator[str]:
    """The URL of a fresh, migrated database."""
    name = f"test_{next(_numbers)}"
    yield await make_database(cluster, name, template)
    connection = await asyncpg.connect(cluster.url)
    try:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real test data, where it is at hand."""
    if not DATA.is_dir():
        pytest.skip("the shared test data is not beside this checkout")
    return DATA


@pytest.fixture(scope="session")
def hospital(cluster: Cluster, template: str) -> Any:
    """A Home with the data that searches are tested on; nobody writes to it."""
    from tests.search_data import fill
    from tests.support import build_home

    return build_home(cluster, template, "hospital", fill)


@pytest.fixture(scope="session")
def practice(cluster: Cluster, template: str) -> Any:
    """A Home with what other people's clients are tested on; but for the tenant `few` nobody writes to it."""
    from tests.clients import fill
    from tests.support import build_home

    return build_home(cluster, template, "practice", fill)


@pytest.fixture(scope="session")
def ledger(cluster: Cluster, template: str) -> Any:
    """A Home with claims of two tenants that bear the same ids; nobody writes to it, but for when it was refreshed."""
    from tests.reporting import fill_ledger
    from tests.support import build_home

    return build_home(cluster, template, "ledger", fill_ledger)
