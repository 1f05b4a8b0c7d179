"""What a dump shows of each kind of process beside its tasks: queues, pools, and who holds what (app/dump.py)."""

from collections.abc import Callable, Iterable, Iterator

from aiohttp import web

from app.dump import Line, State
from handlers.services import SERVICES
from ingestion.polling.braking import Brakes
from ingestion.polling.jobs import Jobs
from ingestion.polling.poll import Poller
from storage.connecting.connections import Lender
from storage.connecting.watch import Primary, Watch

_TENANTS_MAX = 200
"""Those with requests under way go before those that are only warm."""


def of_api(app: web.Application) -> State:
    def state() -> Iterator[Line]:
        services = app.get(SERVICES)
        if services is None:  # it starts, or has ended
            return
        actors = services.registry.actors()
        yield "dump.tenants", {"warm": sum(actor.phase.value == "warm" for actor in actors), "tenants": len(actors)}
        for actor in sorted(actors, key=lambda actor: -actor.open)[:_TENANTS_MAX]:
            waiting = {name: queue.qsize() for name, queue in actor.channels.items()}
            yield (
                "dump.tenant",
                {
                    "tenant": actor.tenant.name,
                    "phase": actor.phase.value,
                    "generation": actor.generation,
                    "open": actor.open,
                    "waiting": sum(waiting.values()),
                    "channels": waiting,
                },
            )
        for lane in services.registry.lanes():
            yield "dump.lane", lane
        yield "dump.direct", services.direct.standing()
        for server, lender in services.storage.lenders():
            yield from _pool(lender, server)
        yield from _servers(services.storage.servers())

    return state


def of_worker(poller: Poller, jobs: Jobs, brakes: Brakes, held_bytes: Callable[[], int]) -> State:
    def state() -> Iterator[Line]:
        for licence, tally in poller.running.items():
            yield "dump.poll", {"facility": licence, **{name: getattr(tally, name) for name in tally.__struct_fields__}}
        for (_, status), number in jobs.sizes.items():
            yield "dump.jobs", {"status": status, "jobs": number}
        brake = brakes.now
        yield "dump.brake", {"reason": brake.reason or "", "stopped": brake.stopped, "held_bytes": held_bytes()}
        yield from _pool(poller.means.lender, "")
        yield from _servers(poller.primary)

    return state


def _pool(lender: Lender, server: str) -> Iterator[Line]:
    yield "dump.pool", {"pool": lender.name, "server": server, **lender.counts(), "waiting": lender.waiting}
    for facts in lender.held():
        yield "dump.connection", {"pool": lender.name, "server": server, **facts}


def _servers(primary: Primary | None) -> Iterable[Line]:
    """Where several are watched."""
    if isinstance(primary, Watch):
        for server in primary.servers:
            lag_s = round(primary.lag_s(server), 3)
            yield "dump.server", {"server": server.name, "state": server.state, "timeline": server.timeline, "lag_s": lag_s}
