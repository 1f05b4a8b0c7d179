"""The queue's own tables, made and upgraded by pgqueuer's own code, in a schema of theirs."""

from importlib.metadata import version
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:  # it takes a third of a second to import, and every command comes by `ensure`
    from pgqueuer.queries import Queries

SCHEMA = "jobs"
CHANNEL = "sluice_jobs"
_TABLES = {
    "queue_table": "queue",
    "queue_table_log": "queue_log",
    "statistics_table": "statistics",
    "schedules_table": "schedules",
}
_GRANTS = f"""
    GRANT USAGE ON SCHEMA {SCHEMA} TO sluice_ingest;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO sluice_ingest;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA {SCHEMA} TO sluice_ingest;
"""


def queries(connection: asyncpg.Connection) -> "Queries":
    """Pgqueuer's statements on this connection; its `PGQUEUER_*` environment does not move our tables."""
    from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.domain.settings import DBSettings
    from pgqueuer.queries import Queries

    names = DBSettings.model_validate({"db_schema": SCHEMA, "channel": CHANNEL, **_TABLES})  # which looks at no environment
    return Queries(
        AsyncpgDriver(connection), QueryBuilderEnvironment(names), QueryQueueBuilder(names), QuerySchedulerBuilder(names)
    )


async def ensure(connection: asyncpg.Connection) -> bool:
    """Makes the tables, or brings them to the installed pgqueuer. Call it with the migrations' lock.

    Whether there was anything to do.
    """
    wanted = version("pgqueuer")
    if await connection.fetchval("SELECT value FROM ops.fact WHERE name = 'pgqueuer'") == wanted:
        return False
    queue = queries(connection)
    if await queue.schema_is_installed():
        await queue.upgrade()  # statement by statement, for some cannot share a transaction
    else:
        async with connection.transaction():
            await queue.install()
    await connection.execute(_GRANTS)
    await connection.execute(
        "INSERT INTO ops.fact VALUES ('pgqueuer', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value", wanted
    )
    return True
