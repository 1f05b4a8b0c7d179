"""The `sluice` command."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer

from app.cli_check import check
from app.cli_compare import compare
from app.cli_ingestion import facility_cli, ingest_cli, worker
from app.cli_tools import Json, notices, on_database, settings, show, with_connection
from app.cli_views import views_cli
from app.database import database
from app.parent import end_as_by_ctrl_c
from base import log
from base.config import ConfigError, describe
from base.errors import Problem
from base.identity import DEFAULT_SCOPES
from storage import tenancy
from storage.embedded import EmbeddedError
from storage.migrate import MigrationError, migrate
from storage.reindex import is_outdated

_SETTINGS = "Settings (environment variables; secrets also as NAME_FILE):\n\n" + "\n\n".join(
    f"{name}{f' ({default})' if default else ''}: {text}" for name, default, text in describe()
)
cli = typer.Typer(
    epilog=_SETTINGS,
    no_args_is_help=True,
    add_completion=False,
    help="A multi-tenant healthcare backend with channels for warm tenants.",
)
tenant_cli = typer.Typer(no_args_is_help=True, help="The tenants.")
key_cli = typer.Typer(no_args_is_help=True, help="The keys that say who a tenant is.")
cli.add_typer(tenant_cli, name="tenant")
cli.add_typer(key_cli, name="key")
cli.add_typer(facility_cli, name="facility")
cli.add_typer(ingest_cli, name="ingest")
cli.add_typer(views_cli, name="views")
cli.command(epilog=_SETTINGS)(worker)
cli.command()(check)
cli.command()(compare)
_TOLD = (ConfigError, EmbeddedError, MigrationError, Problem, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


def main() -> None:
    """Errors that the user can do something about are one line and exit code 1; the rest are ours, with their traceback."""
    log.configure(level=logging.WARNING)
    end_as_by_ctrl_c()
    try:
        cli()
    except Exception as error:
        told = log.innermost(error)
        if not isinstance(told, _TOLD):
            raise
        # One line: a database's error goes on with details.
        text = str(told).partition("\n")[0] or type(told).__name__
        notices.print(f"sluice: {text}", style="red", markup=False, highlight=False)
        sys.exit(1)


@cli.command(epilog=_SETTINGS)
def serve(
    host: Annotated[str | None, typer.Option(help="goes before SLUICE_HOST")] = None,
    port: Annotated[int | None, typer.Option(help="goes before SLUICE_PORT")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="processes on this machine that share the port")] = 1,
) -> None:
    """The API."""
    from app.serving import serve as run

    run(settings(_given(host, port)), workers=workers)


@cli.command()
def demo(
    host: Annotated[str | None, typer.Option(help="goes before SLUICE_HOST")] = None,
    port: Annotated[int | None, typer.Option(help="goes before SLUICE_PORT")] = None,
) -> None:
    """Three tenants with generated data, one of them warm, claims that come in, and requests to paste."""
    from app.demo import demo as run

    run(settings(_given(host, port)))


@cli.command("import")
def import_command(
    tenant: Annotated[str, typer.Argument(help="whose data it is")],
    paths: Annotated[
        list[Path], typer.Argument(exists=True, help="NDJSON, single resources or Bundles, plain or gzip; files or folders")
    ],
    strict: Annotated[bool, typer.Option("--strict", help="put nothing in if anything is bad")] = False,
) -> None:
    """FHIR resources into a tenant; importing the same again changes nothing. Exit code 1 when a line was bad."""
    from app.importing import import_with_bar, told

    async def run(url: str) -> Any:
        tenant_id = await with_connection(url, lambda connection: tenancy.tenant_id_of(connection, tenant))
        return await import_with_bar(url, tenant_id, paths, strict=strict, title=tenant)

    with database(settings()) as config:
        summary = asyncio.run(run(config.database_url))
    for line in told(summary):
        notices.print(line, highlight=False)
    if summary.bad_lines:
        raise typer.Exit(1)


@cli.command("migrate")
def migrate_command() -> None:
    """Brings the database to this version; safe to run twice and side by side."""
    with database(settings()) as config:
        applied = asyncio.run(migrate(config.database_url))
        outdated = asyncio.run(with_connection(config.database_url, is_outdated))
    for migration in applied:
        notices.print(f"applied {migration.version:04} {migration.name}", highlight=False)
    if not applied:
        notices.print("nothing to do: the database is at this version")
    if outdated:
        notices.print("searches may miss what an older version has stored: `sluice reindex` indexes it anew", style="yellow")


@cli.command("reindex")
def reindex_command(tenant: Annotated[str | None, typer.Argument(help="all, unless one is named")] = None) -> None:
    """Indexes anew what is stored, after an upgrade that asks for it; beside a server, and from the start if it was ended."""
    from app.reindexing import reindex_with_bar

    async def run(connection: asyncpg.Connection) -> int:
        tenant_id = None if tenant is None else await tenancy.tenant_id_of(connection, tenant)
        return await reindex_with_bar(connection, tenant_id, title=tenant or "all tenants")

    notices.print(f"{on_database(run):,} resources are indexed anew", highlight=False)


@cli.command("post-office")
def post_office_command(
    facilities: Annotated[int, typer.Option(min=1, max=1000, help="simulated facilities")] = 3,
    claims: Annotated[int, typer.Option(min=1, help="of each facility")] = 1000,
    seed: Annotated[int, typer.Option(help="another one, other claims")] = 1,
    misbehave: Annotated[bool, typer.Option("--misbehave", help="eight of ten facilities do so")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="full files of claims and their one answer, as benchmarks want them")
    ] = False,
    every: Annotated[float, typer.Option(min=0, help="seconds after which each facility gets another file; 0: never")] = 0,
    host: Annotated[str, typer.Option(help="passwords come over plain HTTP")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8090,
    write_commands: Annotated[Path | None, typer.Option(help="a script that registers the facilities with a tenant")] = None,
) -> None:
    """A simulated post office with generated claims, for `sluice worker` to poll."""
    from app.post_office import Order, post_office
    from simulator.claims import MIX, PLAIN

    post_office(Order(facilities, claims, seed, misbehave, every, host, port, write_commands, PLAIN if plain else MIX))


@tenant_cli.command("create")
def tenant_create(
    name: str,
    exclusive: Annotated[bool, typer.Option("--exclusive", help="never shares a statement with another tenant")] = False,
) -> None:
    """A new tenant."""
    number = on_database(lambda connection: tenancy.create_tenant(connection, name, exclusive=exclusive))
    notices.print(f"tenant {name} is number {number}; `sluice key create {name}` makes it a key", highlight=False)


@tenant_cli.command("list")
def tenant_list(as_json: Json = False) -> None:
    """All tenants."""
    show(on_database(tenancy.list_tenants), as_json=as_json)


@key_cli.command("create")
def key_create(
    tenant: Annotated[str | None, typer.Argument(help="whose key it is")] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="read, warm, report or operate; repeatable; the first three unless said")
    ] = None,
    operator: Annotated[bool, typer.Option("--operator", help="a key of no tenant, for the console and operations")] = False,
) -> None:
    """Prints a new key alone on standard output, once; only its hash is kept."""
    if operator == (tenant is not None):
        raise typer.BadParameter("say either a tenant or --operator")
    scopes = scope or (["operate"] if operator else list(DEFAULT_SCOPES))
    print(on_database(lambda connection: tenancy.create_key(connection, tenant, scopes)))


@key_cli.command("list")
def key_list(tenant: Annotated[str | None, typer.Argument()] = None, as_json: Json = False) -> None:
    """All keys, or a tenant's."""
    show(on_database(lambda connection: tenancy.list_keys(connection, tenant)), as_json=as_json)


@key_cli.command("revoke")
def key_revoke(key_id: int) -> None:
    """Ends a key; within seconds every process refuses it."""
    on_database(lambda connection: tenancy.revoke_key(connection, key_id))
    notices.print(f"key {key_id} is revoked", highlight=False)


@key_cli.command("rotate")
def key_rotate(key_id: int) -> None:
    """Prints a new key with the tenant and scopes of the old one, which it revokes."""
    print(on_database(lambda connection: tenancy.rotate_key(connection, key_id)))


def _given(host: str | None, port: int | None) -> dict[str, str]:
    given = {"SLUICE_HOST": host, "SLUICE_PORT": port}
    return {name: str(value) for name, value in given.items() if value is not None}
