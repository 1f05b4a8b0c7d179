"""One timer for all deadlines of a process: whatever still waits when its time is up is answered 504."""

import asyncio
from collections import OrderedDict
from time import perf_counter

from base.errors import Expired
from storage.asks import Ask


class Deadlines:
    """Every ask has the same time to live, so the order of coming is the order of expiring: no heap, no timer for each."""

    def __init__(self) -> None:
        self._asks: OrderedDict[Ask, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._asks)

    def watch(self, ask: Ask) -> None:
        self._asks[ask] = None
        if self._timer is None:
            self._arm(ask)

    def forget(self, ask: Ask) -> None:
        self._asks.pop(ask, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, first: Ask) -> None:
        loop = asyncio.get_running_loop()
        # perf_counter and the loop's clock need not be the same one.
        self._timer = loop.call_later(max(first.deadline - perf_counter(), 0.0), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = perf_counter()
        while self._asks:
            ask = next(iter(self._asks))
            if ask.deadline > now:
                self._arm(ask)
                return
            del self._asks[ask]
            ask.fail(Expired("the deadline passed before the answer was there"))
