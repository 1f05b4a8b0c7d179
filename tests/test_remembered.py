"""What is looked up once and remembered: for how long, of how many, and for whom."""

import asyncio
from collections import Counter

import pytest

from base.remembered import Remembered


class Source:
    """Says a key's name in capitals, good for `good_s`, and counts who asked."""

    def __init__(self, good_s: float = 60.0) -> None:
        self.good_s = good_s
        self.asked: Counter[str] = Counter()
        self.speaks = asyncio.Event()
        self.speaks.set()

    async def look_up(self, key: str) -> tuple[str, float]:
        self.asked[key] += 1
        await self.speaks.wait()
        if key == "bad":
            raise LookupError(key)
        return key.upper(), self.good_s


async def test_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value is remembered for as long as its source says, and no longer."""
    now = 0.0
    monkeypatch.setattr("base.remembered.monotonic", lambda: now)
    source = Source(good_s=5.0)
    remembered: Remembered[str, str] = Remembered(source.look_up)
    for now, asked in ((0.0, 1), (4.9, 1), (5.0, 2), (9.9, 2), (10.0, 3)):  # noqa: B007  # the clock reads it
        assert await remembered.get("a") == "A"
        assert source.asked["a"] == asked


async def test_nothing_is_remembered_of_what_is_good_no_longer() -> None:
    """A value that is good for no time at all is given, and looked up again the next time."""
    source = Source(good_s=-30.0)
    remembered: Remembered[str, str] = Remembered(source.look_up)
    assert [await remembered.get("a") for _ in range(2)] == ["A", "A"]
    assert source.asked["a"] == 2


async def test_size() -> None:
    """Memory is bounded, and whoever hammers with new keys takes no place from one that is used."""
    source = Source()
    remembered: Remembered[str, str] = Remembered(source.look_up, kept=10)
    for number in range(100):
        await remembered.get("used")
        await remembered.get(str(number))
    assert source.asked["used"] == 1
    assert len(remembered._known) == 10


async def test_failures() -> None:
    """What a look-up raises reaches everybody who waits for it, and is not remembered."""
    source = Source()
    source.speaks.clear()
    remembered: Remembered[str, str] = Remembered(source.look_up)
    waiting = [asyncio.ensure_future(remembered.get("bad")) for _ in range(3)]
    await asyncio.sleep(0)
    source.speaks.set()
    assert {type(error) for error in await asyncio.gather(*waiting, return_exceptions=True)} == {LookupError}
    with pytest.raises(LookupError):
        await remembered.get("bad")
    assert source.asked["bad"] == 2


async def test_sharing() -> None:
    """Those who come during a look-up share it, and one who leaves takes nothing from the others."""
    source = Source()
    source.speaks.clear()
    remembered: Remembered[str, str] = Remembered(source.look_up)
    first, *others = [asyncio.ensure_future(remembered.get("a")) for _ in range(4)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.speaks.set()
    assert await asyncio.gather(*others) == ["A", "A", "A"]
    assert source.asked["a"] == 1
