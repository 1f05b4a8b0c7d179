"""Keeps the report views of one database up to date, beside whoever else does so.

Two lanes, each with a connection of its own: one computes views as a whole, one at a time over all workers; the other applies
changes, which does not wait for the first. What is to be done is decided by planning.py from what the database says, anew once
the lock was got: another worker may just have done it.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from time import monotonic, perf_counter

import asyncpg
import structlog
from asyncpg.connect_utils import SessionAttribute

from base.config import Config
from base.tracing import Work, work
from metrics.accumulators import Labels
from metrics.catalog import WorkerMetrics
from reporting.planning import Action, Decision, Wish, plan, wishes
from storage import views
from storage.connecting.watch import Primary
from storage.views import REPORTS, State, View

log = structlog.get_logger()

Connect = Callable[..., Awaitable[asyncpg.Connection]]

CHANNEL = "sluice_changed"
_SETTINGS = {"application_name": "sluice views", "idle_in_transaction_session_timeout": "60s"}
_LOOK_S = 5.0
_GATHER_S = 0.1
"""Many files may come at once: they are looked at together."""
_BUSY_S = 0.5
_RETRY_S = (1.0, 300.0)
"""After a failure, doubled each time."""
_RECONNECT_S = 1.0
_PAST: Mapping[Action, str] = {"refresh": "view.refreshed", "rebuild": "view.rebuilt", "apply": "view.applied"}


def refreshing(config: Config, metrics: WorkerMetrics, primary: Primary | None = None) -> "Refreshing":
    """By ingestion's login: one that has a URL of its own has its role by that."""
    role = {} if config.ingest_database_url else {"role": "sluice_ingest"}
    connect = partial((primary or Primary(config.database_url)).connect, config.ingest_database_url)
    return Refreshing(connect, {**_SETTINGS, **role}, wishes(config), metrics)


class Refreshing:
    """`connect` leads to the primary; `settings` are those of its connections."""

    def __init__(
        self, connect: Connect, settings: Mapping[str, str], wishes: Mapping[str, Wish], metrics: WorkerMetrics
    ) -> None:
        self._seen: dict[str, tuple[State, float]] = {}
        metrics.view_age.read = self._ages
        metrics.view_rows.read = self._rows
        asked = {name: wish.freshness_s or wish.interval_s for name, wish in wishes.items()}
        metrics.view_freshness.read = lambda: [((name,), seconds) for name, seconds in asked.items()]
        whole: tuple[Action, ...] = ("refresh", "rebuild")
        self._lanes = [Lane(self._seen, connect, settings, wishes, metrics, does) for does in (whole, ("apply",))]

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. What is being computed then is given up: it may take minutes, and leaves nothing behind."""
        tasks = [asyncio.ensure_future(lane.run()) for lane in self._lanes]
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _ages(self) -> Iterable[tuple[Labels, float]]:
        """They grow while nobody looks, too."""
        now = monotonic()
        return [((name,), state.age_s + now - looked) for name, (state, looked) in self._seen.items()]

    def _rows(self) -> Iterable[tuple[Labels, float]]:
        return [((name,), float(state.rows)) for name, (state, _) in self._seen.items()]


class Lane:
    """Does what is in `does`, of all views."""

    def __init__(
        self,
        seen: dict[str, tuple[State, float]],
        connect: Connect,
        settings: Mapping[str, str],
        wishes: Mapping[str, Wish],
        metrics: WorkerMetrics,
        does: tuple[Action, ...],
    ) -> None:
        self._seen = seen
        self._connect = connect
        self._settings = dict(settings)
        self._wishes = wishes
        self._metrics = metrics
        self._does = does
        self._applies = "apply" in does
        self._look_s = min([_LOOK_S, *(wish.freshness_s / 2 for wish in wishes.values() if wish.freshness_s and self._applies)])
        self._wake = asyncio.Event()
        self._rests: dict[str, float] = {}  # views that are left alone until then
        self._failures: dict[str, int] = {}  # one after the other
        self._counted: dict[tuple[str, str], int] = {}  # skips, by view and reason: the slot of the last
        self._untold: list[tuple[View, str]] = []  # failures that took the connection with them

    async def run(self) -> None:
        """For ever: whatever goes wrong, it begins again."""
        while True:
            try:
                await self._connected()
            except Exception as error:  # noqa: BLE001  # the views must not stay as they are because of one
                log.warning("views.interrupted", lane=self._does[0], error=reason_of(error))
            await asyncio.sleep(_RECONNECT_S)

    async def _connected(self) -> None:
        # A replica computes nothing: after a switch the primary is another server behind the same name.
        connection = await self._connect(
            timeout=5, server_settings=self._settings, target_session_attrs=SessionAttribute.read_write
        )
        try:
            connection.add_termination_listener(lambda _connection: self._wake.set())
            if self._applies:
                await connection.add_listener(CHANNEL, lambda *_: self._heard())
            while self._untold:
                await views.note_failure(connection, *self._untold[-1])
                self._untold.pop()
            while not connection.is_closed():
                self._wake.clear()
                await self._wait(await self._look(connection))
        finally:
            await connection.close(timeout=2)

    def _heard(self) -> None:
        if any(state.incremental for state, _ in self._seen.values()):
            self._wake.set()

    async def _wait(self, seconds: float) -> None:
        if seconds <= 0:
            return
        try:
            async with asyncio.timeout(min(seconds, self._look_s)):
                await self._wake.wait()
        except TimeoutError:
            return
        await asyncio.sleep(_GATHER_S)

    async def _look(self, connection: asyncpg.Connection) -> float:
        """Does what is due; seconds until the next look."""
        again_s = self._look_s
        found = await self._states(connection)
        # The smallest first: it is soon done, and waits for none that is not.
        for name, state in sorted(found.items(), key=lambda item: item[1].rows):
            decision = plan(state, self._wishes[name])
            rest_s = self._rests.get(name, 0.0) - monotonic()
            if rest_s > 0:
                again_s = min(again_s, rest_s)
            elif decision.action == "wait":
                again_s = min(again_s, decision.again_s)
            elif decision.action == "skip":
                await self._skip(connection, state, decision)
                again_s = min(again_s, decision.again_s)
            elif decision.action in self._does:
                await self._act(connection, REPORTS[name], decision)
                again_s = 0.0  # much may have happened meanwhile
        return again_s

    async def _states(self, connection: asyncpg.Connection) -> dict[str, State]:
        found = await views.states(connection)
        self._seen.update({name: (state, monotonic()) for name, state in found.items()})
        return found

    async def _skip(self, connection: asyncpg.Connection, state: State, decision: Decision) -> None:
        if state.incremental is not self._applies:
            return
        if not state.incremental:
            self._count(state, decision.reason)
        if decision.reason == "unchanged":
            async with views.turn(connection, REPORTS[state.name], whole=False) as ours:
                if ours:
                    await views.confirm(connection, REPORTS[state.name])

    def _count(self, state: State, reason: str) -> None:
        """Once an interval, however often it was looked at."""
        slot = self._wishes[state.name].slot_of(state.now)
        if self._counted.get((state.name, reason)) != slot:
            self._counted[state.name, reason] = slot
            self._metrics.view_skipped.child(state.name, reason).add()

    async def _act(self, connection: asyncpg.Connection, view: View, decision: Decision) -> None:
        async with views.turn(connection, view, whole=decision.action != "apply") as ours:
            state = (await self._states(connection))[view.name]
            if not ours:
                self._count(state, "busy")
                self._rests[view.name] = monotonic() + _BUSY_S
                return
            decision = plan(state, self._wishes[view.name])
            if decision.action in self._does:
                await self._try(connection, view, decision.action)

    async def _try(self, connection: asyncpg.Connection, view: View, action: Action) -> None:
        with work("view", refresh=secrets.token_hex(4), view=view.name, action=action) as piece:
            await self._try_within(connection, view, action, piece)

    async def _try_within(self, connection: asyncpg.Connection, view: View, action: Action, piece: Work) -> None:
        began = perf_counter()
        try:
            await self._do(connection, view, action)
        except Exception as error:
            reason = reason_of(error)
            self._failed(view, reason, action, perf_counter() - began)
            piece.say(error=reason)
            if connection.is_closed():
                self._untold.append((view, reason))
                raise
            await views.note_failure(connection, view, reason)
        else:
            self._failures.pop(view.name, None)
            self._rests.pop(view.name, None)

    async def _do(self, connection: asyncpg.Connection, view: View, action: Action) -> None:
        began = perf_counter()
        facts = await (self._apply(connection, view) if action == "apply" else self._compute(connection, view, action))
        took_s = perf_counter() - began
        self._metrics.view_refresh.child(view.name, "applied" if action == "apply" else "refreshed").observe(took_s)
        log.info(_PAST[action], view=view.name, took_s=round(took_s, 3), **facts)
        await views.prune(connection)

    async def _apply(self, connection: asyncpg.Connection, view: View) -> dict[str, int]:
        keys = written = 0
        more = True
        while more:  # each step is a transaction
            applied = await views.apply(connection, view)
            keys, written, more = keys + applied.keys, written + applied.written, applied.more
        return {"keys": keys, "written": written}

    async def _compute(self, connection: asyncpg.Connection, view: View, action: Action) -> dict[str, int]:
        return {"rows": await (views.refresh if action == "refresh" else views.rebuild)(connection, view)}

    def _failed(self, view: View, reason: str, action: Action, took_s: float) -> None:
        times = self._failures[view.name] = self._failures.get(view.name, 0) + 1
        least, most = _RETRY_S
        pause_s = min(least * 2.0 ** min(times - 1, 30), most)
        self._rests[view.name] = monotonic() + pause_s
        self._metrics.view_refresh.child(view.name, "failed").observe(took_s)
        log.warning("view.failed", view=view.name, action=action, error=reason, times=times, again_s=pause_s)


def reason_of(error: BaseException) -> str:
    """Its kind alone: what a database says may repeat what stands in a row."""
    if isinstance(error, asyncpg.InterfaceError) and error.__context__ is not None:
        error = error.__context__  # the connection went, and then was missed
    state = getattr(error, "sqlstate", None)
    return f"{type(error).__name__} ({state})" if state else type(error).__name__
