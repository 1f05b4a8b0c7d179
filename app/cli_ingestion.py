"""The commands of ingestion: facilities, what came in, and the worker."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from app.cli_tools import Json, notices, on_database, settings, show
from base.errors import Invalid
from storage import facilities as store

facility_cli = typer.Typer(no_args_is_help=True, help="The facilities whose claims are fetched.")
ingest_cli = typer.Typer(no_args_is_help=True, help="What came in.")
Licence = Annotated[str, typer.Argument(help="the facility's licence")]
OneOrAll = Annotated[str | None, typer.Argument(help="a facility's licence; all, unless one is named")]


def worker() -> None:
    """Polls the facilities, until it is told to end; any number of them on any number of machines."""
    from app.worker import work

    work(settings())


@facility_cli.command("add")
def facility_add(
    tenant: Annotated[str, typer.Argument(help="whose facility it is")],
    licence: Licence,
    url: Annotated[str, typer.Option(help="of its post office")],
    login: Annotated[str, typer.Option(help="its account's name there")],
    password_file: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="holds the password alone")],
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="own submissions from this day on; unset: 100 days back")
    ] = None,
    no_acknowledge: Annotated[
        bool, typer.Option("--no-acknowledge", help="never tell the post office what was taken; it goes on listing it")
    ] = False,
) -> None:
    """A facility to poll; its password is kept encrypted. A licence belongs to one tenant."""
    from app import facilities
    from ingestion.credentials import Vault
    from ingestion.post_office.listing import DUBAI

    password = facilities.read_password(password_file)
    vault = Vault.from_config(settings())
    day = since.replace(tzinfo=DUBAI) if since else None
    facilities.check_url(url)

    async def add(connection: asyncpg.Connection) -> None:
        await facilities.add(
            connection,
            vault,
            tenant=tenant,
            licence=licence,
            url=url,
            login=login,
            password=password,
            since=day,
            acknowledge=not no_acknowledge,
        )

    on_database(add)
    notices.print(f"{licence} is polled as soon as a worker runs (`sluice worker`)", highlight=False)


@facility_cli.command("mailbox")
def facility_mailbox(
    licence: Licence,
    password_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="holds the new password alone")
    ] = None,
    login: Annotated[str | None, typer.Option(help="its account's new name")] = None,
    url: Annotated[str | None, typer.Option(help="of its post office, from now on")] = None,
) -> None:
    """Another password, account or address; what is not given stays. A login that was refused is tried again at once."""
    from app import facilities
    from ingestion.credentials import Vault

    if password_file is None and login is None and url is None:
        raise Invalid("nothing is to change: give --password-file, --login or --url")
    password = None if password_file is None else facilities.read_password(password_file)
    vault = Vault.from_config(settings())
    on_database(
        lambda connection: facilities.change_mailbox(connection, vault, licence, url=url, login=login, password=password)
    )
    notices.print(f"{licence} is polled with what is new at the next tick", highlight=False)


@facility_cli.command("list")
def facility_list(as_json: Json = False) -> None:
    """All facilities."""
    show(on_database(store.list_facilities), as_json=as_json)


@facility_cli.command("poll")
def facility_poll(
    licence: OneOrAll = None,
    wait: Annotated[bool, typer.Option("--wait", help="until it is done, and tell how it went; exit code 1 unless ok")] = False,
    as_json: Json = False,
) -> None:
    """Polls at once, or after a poll that runs."""
    from app import facilities

    async def poll(connection: asyncpg.Connection) -> list[dict[str, Any]]:
        jobs = await facilities.enqueue(connection, licence)
        if not wait:
            return [{"job": job, "facility": name} for job, name in jobs.items()]
        columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=notices, transient=True) as bar:
            task = bar.add_task("polls", total=len(jobs))

            def progress(done: int, workers: int) -> None:
                bar.update(
                    task, completed=done, description="polls" if workers else "no worker runs: `sluice worker` starts one"
                )

            return await facilities.outcomes(connection, jobs, progress)

    rows = on_database(poll)
    if wait or as_json:
        show(rows, as_json=as_json)
    else:
        notices.print(f"{len(rows)} polls are queued", highlight=False)
    if wait and any(row["outcome"] != "ok" for row in rows):
        raise typer.Exit(1)


@facility_cli.command("pause")
def facility_pause(licence: Licence) -> None:
    """Is polled no more until it is resumed; a poll that runs goes on to its end."""
    from app import facilities

    on_database(lambda connection: facilities.change_state(connection, licence, "paused"))
    notices.print(f"{licence} is paused", highlight=False)


@facility_cli.command("resume")
def facility_resume(licence: Licence) -> None:
    """Is polled again, also when its login was refused."""
    from app import facilities

    on_database(lambda connection: facilities.change_state(connection, licence, "active"))
    notices.print(f"{licence} is polled again", highlight=False)


@ingest_cli.command("status")
def ingest_status(as_json: Json = False) -> None:
    """Each facility: its state, how its last poll went, what is in, what is owed, when it is polled next."""
    show(on_database(store.status), as_json=as_json)


@ingest_cli.command("errors")
def ingest_errors(
    licence: OneOrAll = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="how many, the latest first")] = 100,
    as_json: Json = False,
) -> None:
    """What was wrong with files and claims: warnings, claims put aside, files quarantined or parked."""

    async def errors(connection: asyncpg.Connection) -> list[dict[str, Any]]:
        if licence is not None:
            await store.facility_of(connection, licence)
        return await store.errors(connection, licence, limit)

    show(on_database(errors), as_json=as_json)


@ingest_cli.command("retry")
def ingest_retry(
    licence: Licence, file_id: Annotated[str, typer.Argument(help="the file, as `ingest errors` names it")]
) -> None:
    """A parked file is tried anew at the next poll."""

    async def retry(connection: asyncpg.Connection) -> None:
        await store.retry(connection, await store.facility_of(connection, licence), file_id)

    on_database(retry)
    notices.print(f"{file_id} is tried anew at the next poll of {licence}", highlight=False)
