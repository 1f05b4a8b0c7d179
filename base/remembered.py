"""What is looked up once and remembered for a while, in a bounded memory."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from time import monotonic
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_KEPT = 20_000


class Remembered(Generic[K, V]):
    """`look_up` gives the value of a key, and for how many seconds it is good; what it raises is not remembered."""

    def __init__(self, look_up: Callable[..., Coroutine[Any, Any, tuple[V, float]]], *, kept: int = _KEPT) -> None:
        self._look_up = look_up
        self._kept = kept
        self._known: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._asked: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, *more: Any) -> V:
        """The value; `more` is what `look_up` needs beside the key. Raises what it raises."""
        known = self._known.get(key)
        if known is not None and known[0] > monotonic():
            self._known.move_to_end(key)
            return known[1]
        return await self._shared(key, more)

    async def _shared(self, key: K, more: tuple[Any, ...]) -> V:
        """Those who come while a key is looked up share the answer; one of them leaving takes nothing from the others."""
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.get_running_loop().create_task(self._fetch(key, more))
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: K, task: "asyncio.Task[V]") -> None:
        del self._asked[key]
        if not task.cancelled():
            task.exception()  # those who waited have it; if all have left, it is nobody's

    async def _fetch(self, key: K, more: tuple[Any, ...]) -> V:
        value, good_s = await self._look_up(key, *more)
        self._known[key] = (monotonic() + good_s, value)
        self._known.move_to_end(key)
        if len(self._known) > self._kept:
            self._known.popitem(last=False)  # whoever hammers with ever new keys takes nobody's place who comes often
        return value
