"""The report as one HTML file that stands alone: figures, plots and plotly itself are in it, and it may load nothing."""

import json
from collections.abc import Collection, Iterable, Sequence
from html import escape
from importlib.resources import files

from plotly.offline import get_plotlyjs

from app.comparing.plots import plots
from app.comparing.results import ARMS, Json, named
from app.comparing.tables import batching_text, capacity_text, ratio_text
from app.comparing.verdicts import Judgement

_PARTS = {
    "css": ("handlers.console:theme.css", "app.comparing:page.css"),
    "js": ("handlers.console:drawing.js", "app.comparing:page.js"),
}
"""Colours and the look of plots are the console's."""
# The browser itself sees to it that nothing is loaded from anywhere.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_CLASSES = {Judgement.BETTER.value: "better", Judgement.WORSE.value: "worse", Judgement.UNKNOWN.value: "unknown"}
_MARKS = {Judgement.BETTER.value: "▲", Judgement.WORSE.value: "▼", Judgement.NONE.value: "=", Judgement.UNKNOWN.value: "?"}
_PLOTS = {
    "throughput": "Throughput",
    "latency": "Latency of the mix",
    "capacity": "Capacity",
    "parts": "What makes the difference",
    "costs": "What batching can give",
    "delays": "When the database is further away",
    "cpu": "CPU of an answer",
}
_WORDS = {
    "throughput": "Good answers a second of each operation asked alone, with as many requests in flight as are written beside.",
    "latency": """At the same rates on both paths, counted from when a request was due, not from when it could be sent. The
        percentages are of what direct can do.""",
    "capacity": """The highest rate that each path alone sustains within the limit, with fewer than one request in a thousand
        refused or failed. Whiskers are the lowest and highest of several searches.""",
    "parts": """A channel taken apart: the way through the queue alone, then statements for many, then equal asks asked once.
        Whiskers are 95 % intervals.""",
    "costs": """One connection, no other load: a statement of n asks takes a·n + b, so an ask costs a + b/n. What falls steeply
        gains; what lies flat cannot.""",
    "delays": """A proxy holds back each direction by half of what is written. A channel pays a round trip for many asks at
        once.""",
    "cpu": "Server (dark) and database (pale), with the most in flight: what a machine must have for it.",
}


def page(report: Json) -> str:
    made = plots(report)
    baseline = "verdicts" not in report
    body = [
        _header(report),
        _bottlenecks(report["cells"]) if baseline else _matrix(report["cells"]),
        "" if baseline else _sentences(report),
        *(_plot(name, report, made) for name in _PLOTS if name in made or (name == "capacity" and not baseline)),
        _figures(report["cells"]),
        _conditions(report),
    ]
    css, script = _text("css"), _text("js")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>Sluice: {_title(report)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n{''.join(body)}</main>\n"
        f"{_data('report', report)}{_data('figures', made)}<script>{get_plotlyjs()}</script>\n<script>\n{script}</script>\n"
        "</body>\n</html>\n"
    )


def _text(kind: str) -> str:
    places = (part.split(":") for part in _PARTS[kind])
    return "".join(files(package).joinpath(name).read_text(encoding="utf-8") for package, name in places)


def _data(name: str, value: Json) -> str:
    """JSON for scripts; it cannot end its element."""
    text = json.dumps(value).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _title(report: Json) -> str:
    return "channel against direct" if "verdicts" in report else "direct, the baseline"


def _header(report: Json) -> str:
    machine = report["machine"]
    said = "".join(f"<p>{escape(line)}</p>" for line in report.get("summary", "").splitlines())
    warned = "".join(f"<p>⚠ {escape(line)}</p>" for line in report["warnings"])
    question = "Are channels worth it, for whom, and when?" if "verdicts" in report else "What holds direct back?"
    return (
        f"<header><small>Sluice {escape(machine['versions']['sluice'])} · {escape(report['made_at'])} · "
        f"{machine['cores']} cores · {escape(report['plan'])} plan, {report['seconds'] / 60:g} min</small>\n"
        f'<h1>{question}</h1>\n<div class="verdict">{said}</div>'
        f"{f'<div class=warned>{warned}</div>' if warned else ''}</header>\n"
    )


def _matrix(cells: Sequence[Json]) -> str:
    """Operations down, loads across, the ratio and its judgement in each field."""
    shown = [cell for cell in cells if cell["section"] in ("levels", "rates")]
    columns = list(dict.fromkeys(_column(cell) for cell in shown))
    rows = list(dict.fromkeys(cell["workload"] for cell in shown))
    fields = {(cell["workload"], _column(cell)): cell for cell in shown}
    head = "".join(f"<th scope='col'>{escape(what)}<br>{escape(at)}</th>" for what, at in columns)
    lines = [
        f"<tr><th scope='row'>{escape(row)}</th>" + "".join(_field(fields.get((row, column))) for column in columns) + "</tr>"
        for row in rows
    ]
    legend = "".join(f"<span>{_MARKS[one.value]} {one.value}</span>" for one in Judgement)
    return (
        "<section><h2>For whom, and when</h2><p>Channel to direct, as median and 95 % interval of paired blocks. For "
        "throughput more than 1 is better; for the p99 of latency less.</p>"
        f'<div class="wide"><table class="matrix"><thead><tr><th></th>{head}</tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div><div class="legend">{legend}</div></section>\n'
    )


def _column(cell: Json) -> tuple[str, str]:
    return ("throughput", cell["at"]) if cell["rate"] is None else ("p99 at", cell["load"])


def _field(cell: Json | None) -> str:
    ratio = cell and cell["ratios"]["channel"]["throughput" if cell["rate"] is None else "p99"]
    if not ratio:
        return "<td class='unmeasured'></td>"
    judgement = ratio["judgement"]
    return (
        f"<td class='{_CLASSES.get(judgement, 'none')}' title='{judgement}, {ratio['pairs']} pairs'>"
        f"<b>{_MARKS[judgement]} {ratio['middle']:.2f} ×</b><small>{ratio['low']:.2f}–{ratio['high']:.2f}</small></td>"
    )


def _sentences(report: Json) -> str:
    main = [one for one in report["verdicts"] if one["section"] in ("levels", "rates")]
    more = [one for one in report["verdicts"] if one not in main]
    costs = [cost["sentence"] for cost in report["costs"]]
    return (
        f"<section><h2>In words</h2>{_list(one['sentence'] for one in main)}"
        f"<details><summary>One tenant, the parts of a channel, delays, batching</summary>"
        f"{_list([*(one['sentence'] for one in more), *costs])}</details></section>\n"
    )


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _plot(name: str, report: Json, made: Collection[str]) -> str:
    title, text = _PLOTS[name], _WORDS[name]
    table = ""
    if name == "capacity":
        table = _capacities(report["capacity"])
    elif name == "costs":
        table = _costs(report["costs"])
    plot = f'<div class="plot" id="{name}"></div>' if name in made else ""
    return f"<section><h2>{title}</h2><p>{text}</p>{plot}{table}</section>\n"


def _capacities(found: Json) -> str:
    rows = [[one["workload"], ARMS[one["arm"]], capacity_text(one), str(one["searches"])] for one in found["paths"]]
    return _table(["workload", "path", "a second", "searches"], rows)


def _costs(costs: Sequence[Json]) -> str:
    rows = [
        [
            one["operation"],
            f"{one['a_ms']:.3f}",
            f"{one['b_ms']:.3f}",
            f"{one['gain']:.1f} × ({one['gain_low']:.1f}–{one['gain_high']:.1f})",
            f"{one['measured_gain']:.1f} × at {one['largest']}",
            batching_text(one),
        ]
        for one in costs
    ]
    return _table(["operation", "a, ms", "b, ms", "gain at most, (a + b) / a", "measured", "batching"], rows)


def _bottlenecks(cells: Sequence[Json]) -> str:
    rows = [
        [cell["workload"], cell["at"], f"{cell['arms']['direct']['goodput']:,.0f}", cell["bottleneck"], cell["because"]]
        for cell in cells
    ]
    table = _table(["operation", "load", "a second", "held back by", "figures that say so"], rows, words=(3, 4))
    return f"<section><h2>Bottlenecks</h2>{table}</section>\n"


def _figures(cells: Sequence[Json]) -> str:
    rows = []
    for cell in cells:
        for arm, one in cell["arms"].items():
            ratios = cell["ratios"].get(arm, {})
            database = "–" if one["database_us"] is None else f"{one['database_us']:.0f}"
            rows.append(
                [
                    named(cell), cell["at"], ARMS[arm], f"{one['goodput']:,.0f}", f"{one['good']:,}", f"{one['refused']:,}",
                    f"{one['failed']:,}", f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}", f"{one['server_us']:.0f}", database,
                    ratio_text(ratios.get("throughput") or ratios.get("p99")), ratio_text(ratios.get("cpu")),
                ]
            )  # fmt: skip
    columns = ["question", "load", "path", "goodput a second", "good", "refused", "failed", "p50 ms", "p99 ms"]
    columns += ["server µs", "database µs", "to direct", "CPU to direct"]
    return (
        "<section><h2>All figures</h2><p>Goodput counts good answers alone; what was refused or failed stands beside it. CPU "
        f"is for each good answer.</p><details><summary>{len(rows)} rows</summary>{_table(columns, rows)}</details></section>\n"
    )


def _conditions(report: Json) -> str:
    machine = report["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    facts = {
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}",
        "load before": f"{machine['load_before']} (1 min average; anything above 0.5 blurs the figures)",
        "versions": versions,
        "data": f"{report['data']['origin']}: {report['data']['tenants']} tenants",
        "round trip": f"{report['round_trip_ms']:.3f} ms to the database"
        + "".join(f"; {one['round_trip_ms']:.2f} by the proxy at + {one['delay_ms']:g}" for one in report.get("proxy", [])),
    }
    shown = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    rows = [
        [
            one["section"], str(one["rounds"]), f"{one['block_s']:.1f}", one["stopped"], str(one["discarded"]),
            f"{one['late_p99_ms']:.1f}",
        ]
        for one in report["sections"]
    ]  # fmt: skip
    columns = ["section", "pairs of blocks", "block, s", "stopped by", "discarded slices", "generator late, p99 ms"]
    left_out = _list(report["left_out"]) if report.get("left_out") else ""
    return (
        f"<section><h2>Where and how</h2><dl>{shown}</dl>{_list(report['hidden'])}{left_out}{_table(columns, rows)}"
        '<p class="soft">Blocks of either path in random order, paired; the beginning of each is dropped. Closed loop shows '
        "throughput, open loop latency. docs/compare.md says more.</p></section>\n"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[int] = ()) -> str:
    head = "".join(
        f"<th scope='col'{' class=words' if number in words else ''}>{escape(column)}</th>"
        for number, column in enumerate(columns)
    )
    lines = []
    for row in rows:
        fields = "".join(
            f"<td{' class=words' if number in words else ''}>{escape(text)}</td>" for number, text in enumerate(row)
        )
        lines.append(f"<tr>{fields}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
