"""Rows as COPY takes them."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import strategies as st

from storage.copying import copy, encoded
from tests.claims import connected
from tests.search_questions import prove

# All of Unicode but NUL, which no text of the database holds, and the three that separate.
_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\x1d\x1e\x1f"), max_size=20)
_ROWS = st.lists(
    st.tuples(
        st.integers(-(2**31), 2**31 - 1),
        st.none() | _TEXTS | st.sampled_from(["\\N", "\\.", "\\", "a\tb", "\r\n", ""]),
        st.none() | st.decimals(-(10**9), 10**9, places=2),
        st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        st.binary(max_size=20),
    ),
    min_size=1,
    max_size=5,
)


async def test_what_was_copied_is_read(database: str) -> None:
    """Any values come back as they were, and the rows in their order."""
    async with connected(database, {}) as connection:
        await connection.execute("CREATE TEMP TABLE t (n int, s text, d numeric, at timestamptz, b bytea)")

        async def holds(rows: list[tuple[Any, ...]]) -> None:
            await connection.execute("TRUNCATE t")
            await copy(connection, "t", encoded(rows))
            assert [tuple(row) for row in await connection.fetch("SELECT * FROM t")] == rows

        await prove(_ROWS, holds, 200)


@pytest.mark.parametrize("separator", ["\x1e", "\x1f"])
def test_separators_are_refused(separator: str) -> None:
    """A value cannot make a row or a column of its own."""
    with pytest.raises(ValueError, match="separator"):
        encoded([(1, f"a{separator}b", Decimal(1))])
