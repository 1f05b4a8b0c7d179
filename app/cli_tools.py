"""What the commands share: settings, the database, and how rows are shown."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Annotated, Any

import asyncpg
import typer
from rich.console import Console
from rich.table import Table

from app.database import database
from base.config import Config
from storage.migrate import migrate

notices = Console(stderr=True, soft_wrap=True)
Work = Callable[[asyncpg.Connection], Coroutine[Any, Any, Any]]
Json = Annotated[bool, typer.Option("--json", help="as JSON, for programs")]


def settings(over: dict[str, str] | None = None) -> Config:
    return Config.from_mapping({**os.environ, **(over or {})})


def on_database(work: Work) -> Any:
    with database(settings()) as config:
        return asyncio.run(with_connection(config.database_url, work))


async def with_connection(url: str, work: Work) -> Any:
    """`work`, with one connection to the database, which is brought to this version first."""
    await migrate(url)
    connection = await asyncpg.connect(url)
    try:
        return await work(connection)
    finally:
        await connection.close()


def show(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """A table on a terminal; plain lines, full width, one a row, elsewhere."""
    if as_json:
        print(json.dumps(rows, default=_plain))
    elif sys.stdout.isatty():
        table = Table(*(rows[0] if rows else ()))
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        Console().print(table if rows else "none yet")
    else:
        for row in rows:
            print("\t".join(_cell(value) for value in row.values()))


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value.isoformat(sep=" ", timespec="seconds") if isinstance(value, datetime) else str(value)
