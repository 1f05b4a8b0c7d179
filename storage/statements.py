"""Statements made of our own table of parameters: one text for a single ask, and one for a batch of asks.

Both come from one template: where the single text has $1, $2, …, the batch's has a column of `unnest` and a LATERAL,
so that they cannot differ in what they find. Values are never in the text; names, types and forms come from our
tables alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from storage.queries import load

_SQL = load("reads.sql")


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """`plain` takes tenant and values; `batch` a list of each. Rows begin with the ask's number and the *table's* tenant.

    `bounded`: its work for one ask is bounded by an index and LIMIT, so it may share a statement with others.
    `reads_one`: a row answers an ask only when its id too is the one asked for, the ask's first value.
    `pages`: the ask's last value says how many rows it brings at most.
    """

    name: str
    plain: str
    batch: str
    bounded: bool
    reads_one: bool = False
    pages: bool = False


@lru_cache(maxsize=512)
def read_statement(type_name: str) -> Statement:
    """One resource by id. Values: (id,)."""
    return statement_of(
        f"read {type_name}",
        {"id": "text"},
        lambda at: _SQL["read"].format(type=type_name, **at),
        bounded=True,
        reads_one=True,
    )


@lru_cache(maxsize=1)
def review_statement() -> Statement:
    """An encounter and all around it. Values: (id, since, types, after_kind, after_type, after_id, rows)."""
    filters = {"since": "timestamptz", "types": "text"}
    types = {"id": "text", **filters, "after_kind": "int", "after_type": "text", "after_id": "text", "rows": "int"}
    return statement_of("review", types, lambda at: _SQL["review"].format(**at), bounded=True)


def statement_of(
    name: str,
    types: dict[str, str],
    text: Callable[[dict[str, str]], str],
    *,
    bounded: bool,
    reads_one: bool = False,
    pages: bool = False,
) -> Statement:
    """Both texts of one template. `types`: the SQL type of each value, by its name in the template."""
    columns = {"tenant": "int", **types}
    plain = {column: f"${number}::{kind}" for number, (column, kind) in enumerate(columns.items(), 1)}
    batch = {column: f"ask.{column}" for column in columns}
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(columns.values(), 1))
    return Statement(
        name,
        f"SELECT 1::bigint AS n, found.* FROM ({text(plain)}) found",
        f"SELECT ask.n, found.* FROM unnest({arrays}) WITH ORDINALITY AS ask({', '.join(columns)}, n)\n"
        f"CROSS JOIN LATERAL ({text(batch)}) found",
        bounded,
        reads_one,
        pages,
    )
