"""An ask: one request's question to the database, and the future that its answer comes back through.

Both paths end here. `settle` answers any number of asks of one statement, so direct is a batch of one and cannot differ from a
channel in anything but the company.
"""

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import asyncpg

from base.errors import Mismatch
from base.log import CAUSE
from base.operations import Operation
from storage.connecting.servers import Storage
from storage.failures import is_data, problem_of, worth_another_try
from storage.statements import Statement

Rows = list[asyncpg.Record]
NAMED_MAX = 10
"""Requests that a batch's log line names."""


class Ask:
    """Times are of `perf_counter`; `shared` says that another ask's rows answered this one too.

    `request_id`: of the request that it is of, for log lines. `trace`: set only where requests are traced.
    """

    __slots__ = (
        "answered_at", "deadline", "exclusive", "future", "lent_at", "operation", "request_id", "shared",
        "statement", "submitted_at", "taken_at", "tenant", "tenant_id", "trace", "values",
    )  # fmt: skip

    def __init__(
        self,
        operation: Operation, tenant_id: int, tenant: str, statement: Statement, values: tuple[Any, ...], deadline_s: float,
        *, exclusive: bool = False, request_id: str = "",
    ) -> None:  # fmt: skip
        self.operation = operation
        self.tenant_id = tenant_id
        self.tenant = tenant
        self.statement = statement
        self.values = values
        self.exclusive = exclusive
        self.request_id = request_id
        self.trace: Any
        self.future: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self.submitted_at = perf_counter()
        self.deadline = self.submitted_at + deadline_s
        self.taken_at = self.lent_at = self.answered_at = self.submitted_at
        self.shared = False

    @property
    def waiting(self) -> bool:
        """Whether anybody still wants the answer: its client may have left, its deadline passed."""
        return not self.future.done()

    @property
    def rows(self) -> Rows:
        """The answer; nothing when it was an error, or nobody waited for it."""
        future = self.future
        return future.result() if future.done() and not future.cancelled() and future.exception() is None else []

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def abandon(self) -> None:
        """Nobody waits any more: an error that is there already is nobody's, and must not be logged as forgotten."""
        if not self.future.cancel() and not self.future.cancelled():
            self.future.exception()


class Company:
    """Asks that are answered together, as the cause of log lines."""

    __slots__ = ("_asks",)

    def __init__(self, asks: Sequence[Ask]) -> None:
        self._asks = asks

    def facts(self) -> dict[str, Any]:
        """Whose line it is: the one request's, or the ids of the first `NAMED_MAX` and how many there are."""
        asks = self._asks
        facts: dict[str, Any] = {"operation": asks[0].operation.name}
        if len(asks) == 1:
            return {"request_id": asks[0].request_id, "tenant": asks[0].tenant, **facts}
        ids = [ask.request_id for ask in asks[:NAMED_MAX]]
        return {"request_ids": ids, **facts, "asks": len(asks)}


async def settle(storage: Storage, asks: Sequence[Ask], *, share: bool = True) -> BaseException | None:
    """Answers asks of one statement, each through its future, with one statement; never raises but CancelledError.

    Returns what it failed with, if it did. `share` is off only where it is measured what asking equal asks once is worth.

    A statement that fails for one ask's data is tried on each half, until the culprit stands alone. One that fails because
    the connection or the server went away is tried once more in the time left.
    """
    CAUSE.set(Company(asks))  # of the task, which is a batch's or one ask's own
    groups = _equal_together(asks) if share else [[ask] for ask in asks if ask.waiting]
    return await _settle(storage, groups) if groups else None


def _equal_together(asks: Sequence[Ask]) -> list[list[Ask]]:
    if len(asks) == 1:
        return [[asks[0]]] if asks[0].waiting else []
    groups: dict[tuple[Any, ...], list[Ask]] = {}
    for ask in asks:
        if ask.waiting:
            groups.setdefault((ask.tenant_id, ask.values), []).append(ask)
    return list(groups.values())


async def _settle(storage: Storage, groups: list[list[Ask]]) -> BaseException | None:
    try:
        answers = await _fetch_twice(storage, groups)
    except Exception as error:  # noqa: BLE001  # whatever it was, those who wait are told
        if is_data(error) and len(groups) > 1:
            middle = len(groups) // 2
            first = await _settle(storage, groups[:middle])
            return await _settle(storage, groups[middle:]) or first
        problem = problem_of(error)
        _fail(groups, problem)
        return problem
    now = perf_counter()
    for group, rows in zip(groups, answers, strict=True):
        for ask in group:
            ask.answered_at = now
            ask.shared = ask is not group[0]
            if not ask.future.done():
                ask.future.set_result(rows)
    return None


def _fail(groups: list[list[Ask]], error: BaseException) -> None:
    for group in groups:
        for ask in group:
            ask.fail(error)


async def _fetch_twice(storage: Storage, groups: list[list[Ask]]) -> list[Rows]:
    try:
        return await _fetch(storage, groups)
    except Exception as error:
        if not worth_another_try(error) or _time_left(groups) <= 0:
            raise
    return await _fetch(storage, groups)


def _time_left(groups: list[list[Ask]]) -> float:
    return max(ask.deadline for group in groups for ask in group) - perf_counter()


async def _fetch(storage: Storage, groups: list[list[Ask]]) -> list[Rows]:
    left = max(_time_left(groups), 0.001)
    async with storage.read((group[0].tenant_id for group in groups), left) as connection:
        now = perf_counter()
        for group in groups:
            for ask in group:
                ask.lent_at = now
        statement = groups[0][0].statement
        if len(groups) == 1:
            rows = await connection.fetch(statement.plain, groups[0][0].tenant_id, *groups[0][0].values, timeout=left)
        else:
            rows = await connection.fetch(statement.batch, *_columns(groups), timeout=left)
    return hand_out([group[0] for group in groups], rows)


def _columns(groups: list[list[Ask]]) -> list[list[Any]]:
    """The asks' tenants and values, a list a column, as `unnest` takes them."""
    return [
        [group[0].tenant_id for group in groups],
        *map(list, zip(*(group[0].values for group in groups), strict=True)),
    ]


def hand_out(asks: Sequence[Ask], rows: Rows) -> list[Rows]:
    """Rows to the asks that they answer, by the ask's number and the table's own tenant (and id, where one was asked for).

    Raises Mismatch when a row is not what its ask wanted: then none of them may be served.
    """
    answers: list[Rows] = [[] for _ in asks]
    for row in rows:
        ask = asks[row[0] - 1]
        if row[1] != ask.tenant_id or (ask.statement.reads_one and row[2] != ask.values[0]):
            raise Mismatch("a row came back that nobody had asked for")
        answers[row[0] - 1].append(row)
    return answers
