"""What is looked at before anything is timed: that both paths answer alike, and how far away the database is."""

import asyncio
import time
from collections.abc import Callable, Sequence
from random import Random
from statistics import median

import asyncpg

from app.comparing.servers import Arm, CompareError
from app.comparing.workloads import Holding, wanted
from base.operations import Operation

_SAMPLES = 3


def check_answers(arms: Sequence[Arm], holdings: Sequence[Holding], operations: Sequence[Operation]) -> None:
    """Raises CompareError for an operation that is not answered with 200, or not alike by all."""
    chance = Random(0)
    for operation in operations:
        for holding in holdings:
            for found in [wanted(operation, holding, chance) for _ in range(_SAMPLES)]:
                answers = {arm.name: _answer(arm, found.path, holding.key) for arm in arms}
                if any(status != 200 for status, _ in answers.values()):
                    told = ", ".join(f"{name} {status}" for name, (status, _) in answers.items())
                    raise CompareError(f"{operation.name} is not answered: {told}")
                if len({body for _, body in answers.values()}) > 1:
                    raise CompareError(f"{operation.name}: the paths' answers differ; there is nothing to compare")


def _answer(arm: Arm, path: str, key: str) -> tuple[int, bytes]:
    headers = {"X-Sluice-Force": arm.force} if arm.force else {}
    return arm.server.ask("GET", path, key, **headers)


def round_trip_ms(url: str, *, times: int = 100, of: Callable[[Sequence[float]], float] = median) -> float:
    """Of the least statement there is: the median, or what else is to be told."""

    async def measure() -> float:
        connection = await asyncpg.connect(url)
        try:
            statement = await connection.prepare("SELECT 1")
            taken = []
            for _ in range(times):
                began = time.perf_counter()
                await statement.fetchval()
                taken.append(time.perf_counter() - began)
            return of(taken) * 1000
        finally:
            await connection.close()

    return asyncio.run(measure())
