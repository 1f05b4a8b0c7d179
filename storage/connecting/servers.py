"""Where code says whether it reads or writes; it receives a connection, never a pool."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from base.errors import ServerBusy
from metrics.accumulators import Count, Family
from storage.connecting.connections import Connection, Lender, Loan, TurnedAway
from storage.connecting.floors import Floors
from storage.connecting.watch import Server, Watch
from storage.failures import is_away

_PATIENCE_S = 1.0  # how long a write waits for a primary: a promotion may just be under way


class Storage:
    """The pools of one process, and which server each statement goes to: here there is but one.

    `read` may be answered by a replica, `latest` by one only while the primary is away, `write` never.
    """

    def __init__(self, api: Lender, report: Lender) -> None:
        self.api = api
        self.reports = report

    def backends(self) -> set[int]:
        """The primary's process numbers of our connections."""
        return self.api.backends()

    def lenders(self) -> list[tuple[str, Lender]]:
        """Every pool, with its server's name where there are several."""
        return [("", self.api), ("", self.reports)]

    def servers(self) -> Watch | None:
        """Where there are several."""
        return None

    def read(self, tenant_ids: Iterable[int], patience_s: float | None = None) -> Loan:  # noqa: ARG002
        """For what tenants have stored: nobody reads less than what was there when it was announced."""
        return self.api.lend(patience_s)

    def latest(self, patience_s: float | None = None) -> Loan:
        """For keys and who is warm."""
        return self.api.lend(patience_s)

    def write(self, patience_s: float | None = None) -> Loan:
        """Raises ServerBusy while there is no primary."""
        return self.api.lend(patience_s)

    def report(self, tenant_id: int, patience_s: float | None = None) -> Loan:  # noqa: ARG002
        """As `read`, of the connections that reports have for themselves."""
        return self.reports.lend(patience_s)


class Place:
    """A server and our connections to it."""

    def __init__(self, server: Server, api: Lender, report: Lender, reads: Family) -> None:
        self.server = server
        self.api = api
        self.report = report
        self.reads: dict[str, Count] = {pool: reads.child(server.name, pool) for pool in ("api", "report")}
        self.state = "away"


class Spread(Storage):
    """Several servers: reads go to replicas that are good for all of the tenants, to the primary when none is.

    `api` and `reports` are the pools at the primary, as it was last known.
    """

    def __init__(self, watch: Watch, floors: Floors, places: Sequence[Place]) -> None:
        super().__init__(places[0].api, places[0].report)
        self._watch = watch
        self._floors = floors
        self._places = places
        self._primary = places[0]
        self._replicas: list[Place] = []
        self._turn = 0
        watch.changed = self._changed
        watch.moved.append(floors.lost)
        self._changed()

    def lenders(self) -> list[tuple[str, Lender]]:
        return [(place.server.name, lender) for place in self._places for lender in (place.api, place.report)]

    def servers(self) -> Watch | None:
        return self._watch

    def read(self, tenant_ids: Iterable[int], patience_s: float | None = None) -> Loan:
        return _Routed(self, "api", partial(self._place_for, tuple(tenant_ids)), patience_s)

    def report(self, tenant_id: int, patience_s: float | None = None) -> Loan:
        return _Routed(self, "report", partial(self._place_for, (tenant_id,)), patience_s)

    def latest(self, patience_s: float | None = None) -> Loan:
        return _Routed(self, "api", self._latest, patience_s)

    def write(self, patience_s: float | None = None) -> Loan:
        return _Write(self, "api", self._latest, patience_s)

    def suspect(self, place: "Place") -> None:
        self._watch.suspect(place.server)

    async def primary(self, patience_s: float) -> Place:
        """Raises ServerBusy when there is none within that time."""
        if not await self._watch.present(min(patience_s, _PATIENCE_S)):
            raise ServerBusy("the database takes no writes at the moment: it has no primary")
        return self._primary

    def _latest(self) -> Place:
        if self._watch.here:
            return self._primary
        return max(self._answering(), key=lambda place: place.server.lsn, default=self._primary)

    def _place_for(self, tenants: Sequence[int]) -> Place:
        if self._replicas:
            needed = self._floors.needed(tenants)
            if needed is not None and (good := [place for place in self._replicas if place.server.lsn >= needed]):
                return self._next_of(good)
        return self._primary if self._watch.here else self._while_away(tenants)

    def _while_away(self, tenants: Sequence[int]) -> Place:
        """However far a replica may be behind: what it has is more than nothing, and nobody writes meanwhile."""
        if not (answering := self._answering()):
            return self._primary
        known = self._floors.known(tenants)
        good = [place for place in answering if place.server.lsn >= known]
        return self._next_of(good) if good else max(answering, key=lambda place: place.server.lsn)

    def _next_of(self, places: list[Place]) -> Place:
        """The one that has least to do; in turns, where that is the same."""
        self._turn += 1
        first = self._turn % len(places)
        return min(places[first:] + places[:first], key=_lent)

    def _answering(self) -> list[Place]:
        return [place for place in self._places if place.server.state in ("replica", "lagging")]

    def _changed(self) -> None:
        """After each look."""
        for place in self._places:
            server = place.server
            if server is self._watch.primary:
                self._primary, self.api, self.reports = place, place.api, place.report
            if server.state == "away" and place.state != "away":
                place.api.turn_away()
                place.report.turn_away()
            place.state = server.state
        # One that came back may answer before our connections to it are there again.
        self._replicas = [place for place in self._places if place.state == "replica" and not place.api.away]


def _lent(place: Place) -> int:
    return place.api.lent + place.report.lent


class _Routed(Loan):
    """A connection at the server that is best when it is asked for."""

    __slots__ = ("_choose", "_place", "_pool", "_storage")

    def __init__(self, storage: Spread, pool: str, choose: Callable[[], Place], patience_s: float | None) -> None:
        super().__init__(storage.api, (storage.api if pool == "api" else storage.reports).patience(patience_s))
        self._storage = storage
        self._pool = pool
        self._choose = choose

    async def __aenter__(self) -> Connection:
        try:
            return await self._take(self._choose())
        except TurnedAway:
            return await self._take(self._choose())

    async def _take(self, place: Place) -> Connection:
        self._place = place
        self._lender = place.api if self._pool == "api" else place.report
        connection = await super().__aenter__()
        place.reads[self._pool].add()
        return connection

    async def __aexit__(self, *error: object) -> None:
        """One that broke makes its server suspect, so that a second try goes elsewhere."""
        await super().__aexit__()
        if isinstance(error[1], Exception) and is_away(error[1]):
            self._storage.suspect(self._place)


class _Write(_Routed):
    """A connection at the primary, once there is one."""

    __slots__ = ()

    async def __aenter__(self) -> Connection:
        self._place = await self._storage.primary(self._patience_s)
        self._lender = self._place.api
        return await Loan.__aenter__(self)
