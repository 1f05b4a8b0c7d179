"""`sluice check`, the command: what it shows, its exit codes, that it changes nothing and tells no secret; and who gets in."""

import asyncio
import json
import os
import pty
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from app.checking.checks import CHECKS, examine
from app.checking.statements import told
from app.cli import cli
from base.errors import Conflict
from storage.embedded import Cluster
from storage.embedded.account import account_for, find_programs
from storage.tenancy import list_tenants
from tests.checking import SECRET, Well, away, found, made_well, says, scene_of, shown
from tests.processes import SLUICE, environment, sluice
from tests.support import connected

_numbers = count(1)


@pytest.fixture(scope="module")
def well() -> Iterator[Well]:
    with made_well() as made:
        yield made


async def test_all_well(well: Well) -> None:
    """Of a database made as the handbook says everything is well, and nothing is changed: its dump stays the same."""
    before = await asyncio.to_thread(dumped, well.cluster)
    done = await sluice("check", "--json", "--strict", **well.settings)
    rows = json.loads(done.out)
    assert [(row["check"], row["state"], row["found"]) for row in rows if row["state"] != "ok"] == []
    assert done.code == 0
    assert list(dict.fromkeys(row["check"] for row in rows)) == [check.name for check in CHECKS]
    assert all(row.keys() == {"check", "state", "found", "remedy", "examines"} for row in rows)
    assert await asyncio.to_thread(dumped, well.cluster) == before
    async with scene_of(well.url).connected(well.url) as connection:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("CREATE TABLE public.mine ()")


def dumped(cluster: Cluster) -> str:
    program = find_programs(account_for(cluster.data_dir)) / "pg_dump"
    url = cluster.url.rsplit("/", 1)[0] + "/sluice"
    text = subprocess.run([program, "-d", url], check=True, capture_output=True).stdout.decode()
    return "\n".join(line for line in text.splitlines() if "restrict" not in line)  # a word of its own each time


def run(*words: str, **settings: Any) -> Result:
    """The command, in this process."""
    ours = {name: None for name in os.environ if name.startswith("SLUICE_")}
    given = {name: text for name, text in environment(**settings).items() if name.startswith("SLUICE_")}
    return CliRunner().invoke(cli, ["check", *words], env={**ours, **given})


def test_exit_codes(well: Well, tmp_path: Path) -> None:
    """1 when something fails; a warning alone counts with --strict; a plain line a finding where no terminal is."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    warned = {**well.settings, "SLUICE_SECRET_FILE": secret, "secret": ""}
    plain, strict, failed = run(**warned), run("--strict", **warned), run(**{**well.settings, "port": "http"})
    assert (plain.exit_code, strict.exit_code, failed.exit_code) == (0, 1, 1)
    lines = [line.split("\t") for line in plain.stdout.splitlines()]
    assert all(len(line) == 4 and line[0] in {"ok", "warning", "skipped"} for line in lines)
    assert ["warning", "secret files"] in [line[:2] for line in lines]
    assert "1 warning" in plain.stderr


async def test_terminal(well: Well) -> None:
    """On a terminal of 80 columns no line is wider, marks and names stand in columns, and each remedy has its arrow."""
    text = await asyncio.to_thread(on_terminal, 80, **{**well.settings, "SLUICE_POOLSIZE": 3})
    lines = [line.rstrip() for line in text.replace("\r", "").splitlines()]
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("✓  migrations") for line in lines)
    at = next(number for number, line in enumerate(lines) if "SLUICE_POOLSIZE is no setting" in line)
    assert lines[at].startswith("!  settings")
    assert lines[at + 1].strip() == "→ is SLUICE_POOL_SIZE meant?"


def on_terminal(columns: int, **settings: Any) -> str:
    """What the command shows on one."""
    ours, theirs = pty.openpty()
    given = environment(**settings, COLUMNS=columns, TERM="dumb")
    with subprocess.Popen([SLUICE, "check"], stdout=theirs, stderr=subprocess.DEVNULL, env=given) as process:
        os.close(theirs)
        parts = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # that is how the end looks on this side
            pass
        process.wait()
    os.close(ours)
    return b"".join(parts).decode()


def test_statements(well: Well) -> None:
    """The slowest statements come by their names and without values; what defines or sets something is not among them."""

    async def ask() -> None:
        async with connected(well.url.replace("//sluice:", "//postgres:")) as connection:
            await connection.execute("SELECT pg_stat_statements_reset()")
            await connection.execute("ALTER ROLE sluice_report PASSWORD 'geheim-1'")
            await connection.execute("SELECT pg_sleep(0.01), 'geheim-2', 4711 -- geheim-3")
            await connection.execute("EXPLAIN SELECT 'geheim-4'")
            await list_tenants(connection)

    asyncio.run(ask())
    done = run("--statements", "--json", **well.settings)
    rows = json.loads(done.stdout)
    assert "pg_sleep" in rows[0]["statement"]
    assert "tenancy.sql list_tenants" in [row["name"] for row in rows]
    assert "geheim" not in done.output
    assert not any("4711" in row["statement"] or row["statement"].startswith(("ALTER", "EXPLAIN")) for row in rows)


def test_no_statements(cluster: Cluster) -> None:
    """Where they cannot be had it is said why."""
    for url, words in (
        (cluster.url, "there is no pg_stat_statements in this database"),
        ("mysql://h/x", "there is no connection"),
    ):
        done = run("--statements", database_url=url)
        assert (type(done.exception), done.exit_code) == (Conflict, 1)
        assert words in str(done.exception)


def test_values_are_taken_out() -> None:
    """Also of a statement that PostgreSQL kept with its values."""
    query = (
        "-- a: b 'x'\nSELECT $1, 'ge''heim', E'a\\'geheim', $q$geheim$q$, 784.1, t1.c2 /* geheim */ FROM \"t2\" WHERE n = 4711"
    )
    assert told(query) == 'SELECT $1, ?, ?, ?, ?, t1.c2 FROM "t2" WHERE n = ?'


URLS = [
    (
        "postgresql://u:geheim@127.0.0.1:{away}/x",
        "no connection to 127.0.0.1:{away}/x: connection refused → is PostgreSQL started",
    ),
    ("{base}:geheim@{where}/{name}", 'password authentication failed for user "postgres" → look at the user and the password'),
    ("{login}/nothing_of_this_name", 'database "nothing_of_this_name" does not exist → make the database'),
    ("mysql://u:geheim@h/x", "this is no URL of a database → expected: postgresql://USER:PASSWORD@HOST:PORT/DATABASE"),
    ("postgresql://u:geheim@[h/x", "this is no URL of a database"),
    ("postgresql://u:geheim@h:geheim/x", "this is no URL of a database"),
    ("postgresql://u:geheim@no-such-host.invalid/x", "no connection to no-such-host.invalid/x: "),
]


@pytest.mark.parametrize(("url", "words"), URLS)
async def test_away(url: str, words: str, cluster: Cluster) -> None:
    """A database that is away or wrongly named is one failure with its remedy, without the password; the rest is skipped."""
    login = cluster.url.rsplit("/", 1)[0]
    parts = {
        "away": away(),
        "base": "postgresql://postgres",
        "where": login.rpartition("@")[2],
        "name": "postgres",
        "login": login,
    }
    rows = await examine(scene_of(url.format(**parts)))
    assert says(shown(rows), "failure", words.format(**parts)), shown(rows)
    states = {row.check.name: str(row.state) for row in rows}
    assert (states["database"], states["rights"], states["keys"]) == ("failure", "skipped", "skipped")
    assert "geheim" not in str(shown(rows)).replace("geheim/x", "")
    assert login.split(":")[2].split("@")[0] not in str(shown(rows))


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_no_secret_by_the_command(words: tuple[str, ...], cluster: Cluster, tmp_path: Path) -> None:
    """Whatever is wrong with a setting that holds a secret, no output has it; also of a password that is not encoded."""
    of_reports = [
        "postgresql://u:geheim@h:geheim/x",
        "postgresql://u:geheim/geheim@h/x",
        "postgresql://u:0#geheim@h/x",
        "postgresql://127.0.0.1:1?geheim@h/x",
    ]
    commands: list[dict[str, Any]] = [
        {"database_url": "mysql://u:geheim@h/x", "replica_url": "mysql://u:geheim@h", "secret": "geheim"},
        {"SLUICE_DATABASE_URL_FILE": tmp_path / "nobody", "SLUICE_SECRTE": "geheim", "SLUICE_PASSWORD": "geheim"},
        *({"database_url": cluster.url, "report_database_url": url, "secret": "geheim"} for url in of_reports),
    ]
    for settings in commands:
        done = run(*words, **settings)
        assert done.exit_code == 1
        assert isinstance(done.exception, SystemExit)
        assert "geheim" not in done.output
        assert "u:0" not in done.output


@asynccontextmanager
async def role(cluster: Cluster, options: str) -> AsyncIterator[tuple[str, str]]:
    """A login that is gone afterwards, and what stands before the host of its URL."""
    name = f"login_{next(_numbers)}"
    async with connected(cluster.url) as connection:
        await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'geheim' {options}")
        try:
            yield name, f"postgresql://{name}:geheim@"
        finally:
            await connection.execute(f"DROP ROLE {name}")


async def test_logins(cluster: Cluster, database: str, well: Well) -> None:
    """A login that is superuser, that sees no statistics, or that may not take on its pool's role is told of."""
    where = database.rpartition("@")[2]
    assert says(await found("login", scene_of(database)), "warning", "postgres is superuser")
    assert says(await found("pools", scene_of(database, report_database_url=database)), "failure", "logs in as a superuser")
    async with role(cluster, "") as (name, begin):
        blind = scene_of(begin + where)
        assert says(await found("login", blind), "warning", f"GRANT pg_read_all_stats TO {name}")
        assert says(await found("pools", blind), "failure", "the login may not take on the role sluice_api")
        assert says(
            await found("keys", blind), "warning", "the login may not look: permission denied for table sluice_migration"
        )
        own = scene_of(database, report_database_url=begin + where)
        assert says(await found("pools", own), "failure", "its login is no member of sluice_report")
    async with role(cluster, "IN ROLE sluice_report") as (_, begin):
        assert [each for each, _ in await found("pools", scene_of(database, report_database_url=begin + where))] == ["ok"]
        elsewhere = where.rsplit("/", 1)[0] + "/postgres"
        told_ = await found("pools", scene_of(database, report_database_url=begin + elsewhere))
        assert says(told_, "failure", "SLUICE_REPORT_DATABASE_URL leads to the database postgres, not to ")
    told_ = await found("pools", scene_of(database, ingest_database_url=well.url))
    assert says(told_, "failure", "SLUICE_INGEST_DATABASE_URL leads to a server of another cluster")


async def test_prepared_transaction(well: Well) -> None:
    """One that somebody has prepared is named, of whatever age: Sluice prepares none."""
    async with connected(well.url) as connection:
        await connection.execute("BEGIN; CREATE TABLE public.mine (); PREPARE TRANSACTION 'mine'")
        try:
            assert says(await found("transactions", scene_of(well.url)), "warning", "prepared transaction (sluice)")
        finally:
            await connection.execute("ROLLBACK PREPARED 'mine'")
