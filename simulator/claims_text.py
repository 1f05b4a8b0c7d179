"""How times, money and ids are written in files. Times are minutes since 1970 of Dubai's clock, money is in fils."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from functools import lru_cache
from itertools import chain, repeat
from random import Random
from typing import TypeVar

T = TypeVar("T")
DUBAI = timezone(timedelta(hours=4), "Asia/Dubai")
_MINUTES = [f"{hour:02}:{minute:02}" for hour in range(24) for minute in range(60)]
_EPOCH = date(1970, 1, 1).toordinal()


@lru_cache(maxsize=4096)
def _day(number: int) -> str:
    return date.fromordinal(_EPOCH + number).strftime("%d/%m/%Y")


def moment(minutes: int) -> str:
    """`dd/MM/yyyy HH:mm`."""
    day, minute = divmod(minutes, 1440)
    return f"{_day(day)} {_MINUTES[minute]}"


def to_minutes(at: datetime) -> int:
    """What has no zone is Dubai's time."""
    local = at.replace(tzinfo=DUBAI) if at.tzinfo is None else at
    return int(local.timestamp()) // 60 + 240


def to_datetime(minutes: int) -> datetime:
    return datetime.fromtimestamp((minutes - 240) * 60, UTC).astimezone(DUBAI)


def money(fils: int) -> str:
    """With two decimals, one or none, as files have it."""
    sign, (dirhams, rest) = ("-" if fils < 0 else ""), divmod(abs(fils), 100)
    if rest == 0 and dirhams % 4:
        return f"{sign}{dirhams}"
    if rest % 10 == 0 and dirhams % 3 == 0:
        return f"{sign}{dirhams}.{rest // 10}"
    return f"{sign}{dirhams}.{rest:02}"


def false_emirates_id(random: Random) -> str:
    """Its last digit is not what the Luhn check wants, so it is nobody's."""
    stem = f"784{random.randrange(1940, 2025)}{random.randrange(10_000_000):07}"
    total = 0
    for place, digit in enumerate(map(int, reversed(stem))):
        total += sum(divmod(2 * digit, 10)) if place % 2 == 0 else digit
    check = (random.randrange(1, 10) - total) % 10
    return f"{stem[:3]}-{stem[3:7]}-{stem[7:]}-{check}"


def guid(random: Random) -> str:
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


def weighted(weights: Mapping[T, int]) -> tuple[T, ...]:
    """Each as often as its weight: `pick` is quicker on these than Random.choices."""
    return tuple(chain.from_iterable(repeat(item, weight) for item, weight in weights.items()))


def pick(random: Random, items: Sequence[T]) -> T:
    return items[int(random.random() * len(items))]
