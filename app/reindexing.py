"""`sluice reindex`: what is stored is indexed anew, with a progress bar."""

import asyncpg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from storage.reindex import reindex

notices = Console(stderr=True, soft_wrap=True)


async def reindex_with_bar(connection: asyncpg.Connection, tenant_id: int | None, *, title: str) -> int:
    """Of one tenant, or of all; how many resources there were."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=notices) as bar:
        task = bar.add_task(title, total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return await reindex(connection, tenant_id, progress)
