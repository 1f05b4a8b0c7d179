"""Times statements of n asks on one connection, away from any server's load: what the cost of a batch is made of."""

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import uvloop

from app.comparing.workloads import Holding, Wanted, wanted
from app.main import open_services
from base.config import Config
from base.operations import Operation
from storage.asks import Ask, settle
from storage.connecting.servers import Storage
from tenants.dispatcher import LIMITS

Times = dict[str, dict[int, list[float]]]
"""Milliseconds by operation and by number of asks."""
_DEADLINE_S = 30.0


def sizes_of(operation: Operation) -> list[int]:
    """1, 2, 4 … up to the most that the dispatcher puts in a batch."""
    most = LIMITS[operation.kind].asks
    return [2**power for power in range(most.bit_length()) if 2**power <= most]


def sharing(operations: Sequence[Operation], holdings: Sequence[Holding]) -> dict[str, bool]:
    """Whether the dispatcher puts an operation's asks together: only what an index and a LIMIT bound."""
    return {one.name: wanted(one, holdings[0], random.Random(1)).ask()[0].bounded for one in operations}


def measured(config: Config, holdings: Sequence[Holding], operations: Sequence[Operation], *, seconds: float) -> Times:
    """Every operation and size in turn, in random order, over and over until the time is up; the first round is dropped.

    A time is of the statement alone: from the connection that was lent to the rows that came. One ask runs the plain
    statement, as everywhere. Nothing is shared, so that n asks are n.
    """
    return uvloop.run(_measured(replace(config, channels="off"), holdings, operations, seconds))


async def _measured(config: Config, holdings: Sequence[Holding], operations: Sequence[Operation], seconds: float) -> Times:
    chance = random.Random(1)
    turns = [(operation, size) for operation in operations for size in sizes_of(operation)]
    times: Times = {operation.name: {size: [] for size in sizes_of(operation)} for operation in operations}
    async with open_services(config) as services:
        for operation, size in turns:
            await _time(services.storage, _asks(operation, size, holdings, chance))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for operation, size in chance.sample(turns, len(turns)):
                took = await _time(services.storage, _asks(operation, size, holdings, chance))
                times[operation.name][size].append(took)
    return {name: found for name, found in times.items() if all(found.values())}


async def _time(storage: Storage, asks: Sequence[Ask]) -> float:
    failure = await settle(storage, asks, share=False)
    if failure is not None:
        raise failure
    return (asks[0].answered_at - asks[0].lent_at) * 1000


def _asks(operation: Operation, size: int, holdings: Sequence[Holding], chance: random.Random) -> list[Ask]:
    """Of one statement, as the dispatcher would put them together."""
    asks: list[Ask] = []
    while len(asks) < size:
        holding = chance.choice(holdings)
        asks += _alike(asks, wanted(operation, holding, chance), holding)
    return asks


def _alike(asks: Sequence[Ask], found: Wanted, holding: Holding) -> Iterable[Ask]:
    statement, values = found.ask()
    if not asks or asks[0].statement is statement:
        yield Ask(found.operation, holding.tenant_id, holding.name, statement, values, _DEADLINE_S)
