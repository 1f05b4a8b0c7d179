"""Event-loop lag: how much later than asked a timer runs. A long parse or a stalled process shows here first."""

import asyncio

from metrics.accumulators import Distribution


async def watch_loop(lag: Distribution, stop: asyncio.Event, *, every_s: float = 0.1) -> None:
    """Until `stop` is set."""
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        due = loop.time() + every_s
        try:
            async with asyncio.timeout_at(due):
                await stop.wait()
        except TimeoutError:
            lag.observe(max(loop.time() - due, 0.0))
