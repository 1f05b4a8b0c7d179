"""What the benchmark of reports has found: figures with their targets, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """`limit` is the most that it may be; None: no target."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    more: str = ""

    @property
    def verdict(self) -> str:
        return "" if self.limit is None else "pass" if self.value <= self.limit else "MISS"


def shown(figures: Sequence[Figure]) -> Table:
    table = Table("figure", title="reports")
    for column in ("value", "target", ""):
        table.add_column(column, justify="right")
    table.add_column("")
    for figure in figures:
        digits = 0 if figure.value >= 100 else 3 if figure.value < 1 else 1
        target = "" if figure.limit is None else f"≤ {figure.limit:g} {figure.unit}"
        style = "red" if figure.verdict == "MISS" else ""
        table.add_row(
            figure.what, f"{figure.value:,.{digits}f} {figure.unit}", target, figure.verdict, figure.more, style=style
        )
    return table
