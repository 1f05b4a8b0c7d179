import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import asyncpg
import pytest

from storage.embedded import Cluster
from storage.migrate import Migration, MigrationError, migrate, migrations
from tests.conftest import make_database
from tests.support import add_tenant, connect, connected, patient

ONE = Migration(1, "one", "CREATE TABLE one (x int)")
TWO = Migration(2, "two", "CREATE TABLE two (x int)")


@pytest.fixture
async def empty(cluster: Cluster) -> AsyncIterator[str]:
    """The URL of a database without anything in it."""
    name = f"empty_{uuid.uuid4().hex}"
    yield await make_database(cluster, name)
    async with connected(cluster.url) as connection:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def applied(url: str) -> list[int]:
    async with connected(url) as connection:
        rows = await connection.fetch("SELECT version FROM public.sluice_migration ORDER BY version")
    return [row[0] for row in rows]


async def tables(url: str) -> set[str]:
    async with connected(url) as connection:
        rows = await connection.fetch("SELECT relname FROM pg_class WHERE relname IN ('one', 'two', 'three')")
    return {row[0] for row in rows}


async def test_twice(empty: str) -> None:
    """The first run applies every migration of the folder, the second nothing."""
    assert await migrate(empty) == migrations()
    assert await migrate(empty) == []
    assert await applied(empty) == [migration.version for migration in migrations()]


async def test_side_by_side(empty: str) -> None:
    """Of several at once on an empty database one applies a migration, and the others find it done."""
    done = await asyncio.gather(*(migrate(empty) for _ in range(4)))
    assert sorted(map(len, done)) == [0, 0, 0, len(migrations())]


async def test_missing_one_is_applied(empty: str) -> None:
    """A database of an older version gets what it lacks, and nothing again."""
    await migrate(empty, [ONE])
    assert await migrate(empty, [ONE, TWO]) == [TWO]
    assert await tables(empty) == {"one", "two"}


async def test_reworded(empty: str) -> None:
    """A database that applied a migration when a comment of it was another is brought to this version all the same."""
    await migrate(empty, migrations()[:4])
    async with connected(empty) as connection:
        former = bytes.fromhex("4710a42fe915cee7fd0406bea56dafc0ccdd955bc8d651c6a65af059f3de9c86")
        await connection.execute("UPDATE public.sluice_migration SET sha256 = $1 WHERE version = 2", former)
    assert [migration.version for migration in await migrate(empty)] == [migration.version for migration in migrations()[4:]]
    async with connected(empty) as connection:
        await connection.execute("UPDATE public.sluice_migration SET sha256 = $1 WHERE version = 3", former)
    with pytest.raises(MigrationError, match="0003 was changed"):
        await migrate(empty)


async def test_changed(empty: str) -> None:
    """A migration whose text was changed after it was applied is refused, and nothing else is applied."""
    await migrate(empty, [ONE])
    with pytest.raises(MigrationError, match=r"migration 0001 was changed .* write a new migration"):
        await migrate(empty, [Migration(1, "one", "CREATE TABLE one (x bigint)"), TWO])
    assert await applied(empty) == [1]


async def test_newer(empty: str) -> None:
    """A database that a newer version has migrated is left alone."""
    await migrate(empty, [ONE, TWO])
    with pytest.raises(MigrationError, match=r"migration 2, which this version .* upgrade Sluice"):
        await migrate(empty, [ONE])


@pytest.mark.parametrize(
    "failure",
    ["SELECT 1/0", "ALTER TABLE public.sluice_migration ADD CHECK (version < 2)"],
    ids=["in its text", "when it is written down"],
)
async def test_failing(empty: str, failure: str) -> None:
    """A migration that fails leaves nothing of itself, those before it stay, and the next run goes on from there."""
    three = Migration(3, "three", "CREATE TABLE three (x int)")
    failing = Migration(2, "two", f"CREATE TABLE two (x int); {failure}")
    with pytest.raises(asyncpg.PostgresError):
        await migrate(empty, [ONE, failing, three])
    assert (await applied(empty), await tables(empty)) == ([1], {"one"})
    assert await migrate(empty, [ONE, TWO, three]) == [TWO, three]
    assert await tables(empty) == {"one", "two", "three"}


async def test_lock_is_given_back(empty: str) -> None:
    """After a run that failed, the next one need not wait for its lock."""
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty, [Migration(1, "one", "SELECT 1/0")])
    async with asyncio.timeout(5):
        await migrate(empty, [ONE])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["0001_a.sql", "two.sql"], "two.sql is no migration's name"),
        (["0001_a.sql", "0002_b.sql", "0002_c.sql"], "there twice"),
        (["0001_a.sql", "0003_c.sql"], "missing"),
    ],
)
def test_bad_folder(tmp_path: Path, files: Iterable[str], message: str) -> None:
    """A file with another name, a number that is there twice and one that is missing are refused before anything runs."""
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(MigrationError, match=message):
        migrations(tmp_path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://postgres:geheim@127.0.0.1:1/x", r"no connection to the database at 127.0.0.1:1: .* SLUICE_DATABASE_URL"),
        ("mysql://u:geheim@127.0.0.1/x", "expected: SLUICE_DATABASE_URL=postgresql://"),
        ("postgresql://u:ge/heim@127.0.0.1/x", "expected: SLUICE_DATABASE_URL=postgresql://"),
    ],
)
async def test_not_to_be_had(url: str, message: str) -> None:
    """A database that cannot be reached is named without its password, and so is the setting to look at."""
    with pytest.raises(MigrationError, match=message) as refused:
        await migrate(url)
    assert "heim" not in str(refused.value)


async def test_wrong_password(cluster: Cluster) -> None:
    """Who is not let in hears what PostgreSQL says to it."""
    with pytest.raises(MigrationError, match="password authentication failed"):
        await migrate(cluster.url.replace("postgres:", "postgres:x", 1))


async def test_roles(database: str) -> None:
    """Each part of the house has its role, and none of them may log in by itself."""
    async with connected(database) as connection:
        rows = await connection.fetch("SELECT rolname FROM pg_roles WHERE rolname LIKE 'sluice_%' AND NOT rolcanlogin")
    assert {row[0] for row in rows} == {"sluice_api", "sluice_ingest", "sluice_report"}


async def test_owner_without_superuser(cluster: Cluster, template: str) -> None:
    """A database whose owner may make roles but is no superuser, as on managed servers, is migrated and has its roles."""
    assert template  # the roles are there
    async with connected(cluster.url) as connection:
        await connection.execute("CREATE ROLE landlord LOGIN CREATEROLE PASSWORD 'x'")
        # What PostgreSQL gives to whoever makes a role.
        await connection.execute(
            "GRANT sluice_api, sluice_ingest, sluice_report TO landlord WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"
        )
        await connection.execute("CREATE DATABASE landlords OWNER landlord")
    try:
        place = cluster.url.rpartition("@")[2].partition("/")[0]
        url = f"postgresql://landlord:x@{place}/landlords"
        assert await migrate(url) == migrations()
        connection = await connect(url, role="sluice_api")
        await connection.close()
    finally:
        async with connected(cluster.url) as connection:
            await connection.execute("DROP DATABASE landlords WITH (FORCE)")
            await connection.execute("DROP OWNED BY landlord")
            await connection.execute("DROP ROLE landlord")


TABLES = ("resource", "resource_patient", "history", "token", "string", "date", "reference")
FORBIDDEN = [
    *(f"INSERT INTO fhir.{table} SELECT * FROM fhir.{table}" for table in TABLES),
    *(f"UPDATE fhir.{table} SET tenant_id = 2" for table in TABLES),
    *(f"DELETE FROM fhir.{table}" for table in TABLES),
    "TRUNCATE fhir.resource",
    "SELECT * FROM ops.api_key",
    "SELECT * FROM ops.secret",
    "INSERT INTO ops.tenant (name) VALUES ('mine')",
    "UPDATE ops.warm_tenant SET warm_until = 'infinity'",
    "CREATE TABLE fhir.mine (x int)",
    "CREATE TABLE public.mine (x int)",
]


@pytest.mark.parametrize("role", ["sluice_api", "sluice_report"])
async def test_may_not_write(database: str, role: str) -> None:
    """The API's role and the reports' change no data and see no key: the database itself refuses it."""
    await add_tenant(database, "one", [patient("p")])
    connection = await connect(database, role=role)
    try:
        for statement in FORBIDDEN:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        if role == "sluice_api":
            assert await connection.fetchval("SELECT count(*) FROM fhir.resource") == 1
        else:  # reads schema report alone
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetchval("SELECT count(*) FROM fhir.resource")
    finally:
        await connection.close()


@pytest.mark.parametrize("role", ["sluice_ingest", "sluice_report"])
async def test_only_the_api_may(database: str, role: str) -> None:
    """Keys, the cursors' secret and warmth are the API's business alone."""
    connection = await connect(database, role=role)
    try:
        for call in ("ops.warm(1, 60)", "ops.cool(1)", "ops.key_owner('')", "ops.cursor_secret()"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"SELECT {call}")
    finally:
        await connection.close()
