"""The report on a terminal, and as plain lines elsewhere: verdicts first, then the figures that they are made of."""

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from app.comparing.results import ARMS, Json, named
from app.comparing.verdicts import Judgement

_STYLES = {Judgement.BETTER.value: "green", Judgement.WORSE.value: "red"}


def tables(report: Json, *, whole_lines: bool = False) -> Iterator[Table]:
    """`whole_lines`: each line says what it is of, for programs that look for it."""
    yield _cells(report, whole_lines)
    if "capacity" in report:
        yield _capacity(report["capacity"])
        yield _costs(report["costs"])


def _cells(report: Json, whole_lines: bool) -> Table:
    """Each cell, its arms one below the other; ratios are to direct's line, of throughput or at a rate of the p99."""
    shown = Table(title="answers 200 a second; milliseconds; CPU in µs an answer, server + database", box=SIMPLE_HEAD)
    shown.add_column("question, load", min_width=18)
    shown.add_column("path", no_wrap=True)
    shown.add_column("held back by" if "verdicts" not in report else "to direct", no_wrap=True)
    for column in ("a second", "refused,\nfailed", "p50, p99", "CPU"):
        shown.add_column(column, justify="right", no_wrap=True)
    for cell in report["cells"]:
        whole = f"{named(cell)}, {cell['at']}"
        words = [whole] * len(cell["arms"]) if whole_lines or len(cell["arms"]) == 1 else [named(cell), cell["at"]]
        for number, (arm, figures) in enumerate(cell["arms"].items()):
            shown.add_row(words[number] if number < len(words) else "", arm, _compared(cell, arm), *_figures(figures))
        shown.add_section()
    return shown


def _figures(figures: Json) -> list[str]:
    database = "?" if figures["database_us"] is None else f"{figures['database_us']:.0f}"
    return [
        f"{figures['goodput']:,.0f}",
        f"{figures['refused']:,}, {figures['failed']:,}",
        f"{figures['p50_ms']:.2f}, {figures['p99_ms']:.2f}",
        f"{figures['server_us']:.0f}+{database}",
    ]


def _compared(cell: Json, arm: str) -> str:
    if arm not in cell["ratios"]:
        return str(cell.get("bottleneck", ""))
    found = cell["ratios"][arm]["throughput" if cell["rate"] is None else "p99"]
    return f"[{_STYLES.get(found['judgement'], 'default')}]{ratio_text(found)}[/]" if found else "-"


def ratio_text(found: Json | None) -> str:
    """As everywhere: the middle and its interval."""
    return f"{found['middle']:.2f} × ({found['low']:.2f}–{found['high']:.2f})" if found else "–"


def capacity_text(one: Json) -> str:
    if one["rate"] is None:
        return f"below {one['tried_from']:,.0f}"
    return f"{one['rate']:,.0f}" + (" or more" if one["limited"] else "")


def _capacity(found: Json) -> Table:
    shown = Table(
        "workload",
        "path",
        box=SIMPLE_HEAD,
        title=f"capacity, each path alone: p99 ≤ {found['slo_ms']:g} ms, bad < {found['bad_max']:.1%}",
    )
    for column in ("a second", "lowest", "highest", "searches"):
        shown.add_column(column, justify="right")
    for one in found["paths"]:
        ends = ("-", "-") if one["rate"] is None else (f"{one['lowest']:,.0f}", f"{one['highest']:,.0f}")
        shown.add_row(one["workload"], ARMS[one["arm"]], capacity_text(one), *ends, str(one["searches"]))
    return shown


def batching_text(one: Json) -> str:
    if not one["shares"]:
        return "never batched"
    return "can pay" if one["can_pay"] else "cannot pay"


def _costs(found: list[Json]) -> Table:
    shown = Table("operation", box=SIMPLE_HEAD, title="a statement of n asks takes a·n + b; ms")
    for column in ("a", "b", "gain at most", "misfit of the line", "batching"):
        shown.add_column(column, justify="right", no_wrap=True)
    for one in found:
        gain = f"{one['gain']:.1f} × ({one['gain_low']:.1f}–{one['gain_high']:.1f})"
        shown.add_row(
            one["operation"], f"{one['a_ms']:.3f}", f"{one['b_ms']:.3f}", gain, f"{one['misfit']:.0%}", batching_text(one)
        )
    return shown


def sentences(report: Json) -> list[str]:
    """What a reader in a hurry needs."""
    if "verdicts" not in report:
        held = [f"{cell['workload']} at {cell['at']}: {cell['bottleneck']} ({cell['because']})." for cell in report["cells"]]
        return [*report["warnings"], report["summary"], *held]
    costs = [cost["sentence"] for cost in report["costs"] if not (cost["can_pay"] and cost["shares"])]
    judged = [verdict["sentence"] for verdict in report["verdicts"]]
    return [*report["warnings"], report["summary"], *judged, *costs, *report["left_out"]]


def plain(table: Table) -> list[str]:
    """Full-width lines with tabs between, for what is no terminal."""
    columns: list[list[Any]] = [list(column.cells) for column in table.columns]
    rows = zip(*columns, strict=True)
    return ["\t".join(Text.from_markup(str(cell)).plain for cell in row) for row in rows]
