"""What all polls of a worker share, and how they hold on to the database."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import asyncpg

from base.errors import ServerBusy
from ingestion.loader import Loaded, Received
from ingestion.polling.pace import Budget, Room
from ingestion.polling.throttle import Brake
from metrics.catalog import WorkerMetrics
from storage.connecting.connections import Connection, Lender, Loan
from storage.facilities import Facility
from storage.failures import is_away

_PASSING = {"40001", "40P01", "55P03", "57014"}  # serialization, deadlock, lock and statement timeouts


class Loads(Protocol):
    async def load(self, connection: asyncpg.Connection, facility: Facility, received: Received) -> Loaded: ...


@dataclass(frozen=True)
class Means:
    """What all polls of a worker share."""

    lender: Lender
    loader: Loads
    metrics: WorkerMetrics
    budget: Budget
    brake: Callable[[], Brake]
    files_max: int
    timeout_s: float
    room: Room = field(default_factory=Room)
    """Where files are loaded."""

    def connection(self) -> Loan:
        """Waits for its turn as long as a poll lasts."""
        return self.lender.lend(self.timeout_s)


@dataclass(frozen=True, slots=True)
class File:
    """A file to take. `sent`: the facility sent it itself, and it is never acknowledged."""

    file_id: str
    name: str
    sent: bool


class Whole:
    """A loan that comes back outside of any transaction, or closed: a load may be cancelled anywhere."""

    __slots__ = ("_connection", "_loan")

    def __init__(self, loan: Loan) -> None:
        self._loan = loan

    async def __aenter__(self) -> Connection:
        self._connection = await self._loan.__aenter__()
        return self._connection

    async def __aexit__(self, *error: object) -> None:
        raw = self._connection.raw
        if not raw.is_closed() and raw.is_in_transaction():
            raw.terminate()
        await self._loan.__aexit__(*error)


def is_away_now(error: BaseException) -> bool:
    return isinstance(error, ServerBusy) or is_away(error)


def passes(error: BaseException) -> bool:
    return is_away_now(error) or getattr(error, "sqlstate", None) in _PASSING
