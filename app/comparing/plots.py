"""The report's plots as plotly's own plain dicts. A colour is a `$name` that the page fills in for light or dark."""

from collections.abc import Sequence
from math import log10

from app.comparing.results import ARMS, Json, named

_TICKS = ((50.0, "50"), (90.0, "90"), (99.0, "99"), (99.9, "99.9"), (99.99, "99.99"))
_MS = {"type": "log", "tickvals": [digit * 10**power for power in range(-3, 5) for digit in (1, 2, 5)]}
_DASHES = ("solid", "dash", "dot", "dashdot")


def plots(report: Json) -> dict[str, Json]:
    """By the id of the place that each has on the page; only those that there are figures for."""
    made = {
        "throughput": _throughput(report["cells"]),
        "latency": _latency(report["cells"]),
        "capacity": _capacity(report.get("capacity", {})),
        "parts": _parts(report["cells"]),
        "costs": _costs(report.get("costs", [])),
        "delays": _delays(report["cells"], report.get("proxy", [])),
        "cpu": _cpu(report["cells"]),
    }
    return {name: figure for name, figure in made.items() if figure["data"]}


def _figure(data: list[Json], x: str, y: str, **more: Json) -> Json:
    axes: Json = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}, "rangemode": "tozero"}}
    for axis, settings in more.items():
        axes[axis] |= settings
    if data and data[0]["type"] == "bar" and all(isinstance(one, str) for one in data[0]["x"]) and len(data[0]["x"]) < 3:
        axes["bargap"] = 0.6  # a few bars need not fill the page
    return {"data": data, "layout": axes}


def _throughput(cells: Sequence[Json]) -> Json:
    """By operation, with the most in flight."""
    found = _most_in_flight(cells)
    bars = [
        {
            "type": "bar",
            "name": ARMS[arm],
            "x": [cell["workload"] for cell in found],
            "y": [_of(cell, arm, "goodput") for cell in found],
            "marker": {"color": f"${arm}"},
            "hovertemplate": "%{x}: %{y:,.0f} a second<extra>" + ARMS[arm] + "</extra>",
        }
        for arm in _arms(found)
    ]
    most = found[0]["in_flight"] if found else 0
    return _figure(bars, "", f"good answers a second, {most} in flight")


def _latency(cells: Sequence[Json]) -> Json:
    """Of the mix, each rate with its own dash; the tail is stretched, as HdrHistogram's own plots do."""
    found = [cell for cell in cells if cell["section"] == "rates" and cell["workload"] == "mix"]
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{ARMS[arm]}, {cell['load'].removesuffix(' of direct')}",
            "x": [-log10(1 - percent / 100) for percent, _ in figures["distribution"]],
            "y": [taken for _, taken in figures["distribution"]],
            "customdata": [percent for percent, _ in figures["distribution"]],
            "line": {"color": f"${arm}", "dash": _DASHES[number % len(_DASHES)], "width": 2.5},
            "hovertemplate": "%{customdata} % within %{y:.2f} ms",
        }
        for number, cell in enumerate(found)
        for arm, figures in cell["arms"].items()
    ]
    ticks = {"tickvals": [-log10(1 - percent / 100) for percent, _ in _TICKS], "ticktext": [text for _, text in _TICKS]}
    return _figure(lines, "percent of requests within …", "ms since due", xaxis=ticks, yaxis=_MS)


def _capacity(capacity: Json) -> Json:
    paths = [one for one in capacity.get("paths", []) if one["rate"] is not None]
    bars = []
    for arm in dict.fromkeys(one["arm"] for one in paths):
        of_arm = [one for one in paths if one["arm"] == arm]
        bars.append(
            {
                "type": "bar",
                "name": ARMS[arm],
                "x": [one["workload"] for one in of_arm],
                "y": [one["rate"] for one in of_arm],
                "error_y": _error([(one["rate"], one["lowest"], one["highest"]) for one in of_arm]),
                "marker": {"color": f"${arm}"},
                "hovertemplate": "%{x}: %{y:,.0f} a second<extra>" + ARMS[arm] + "</extra>",
            }
        )
    return _figure(bars, "", f"requests a second with p99 ≤ {capacity.get('slo_ms', 0):g} ms")


def _parts(cells: Sequence[Json]) -> Json:
    """What each part of a channel adds, against direct."""
    found = [cell for cell in cells if cell["section"] == "parts"]
    bars = []
    for arm in [arm for arm in _arms(found) if arm != "direct"]:
        known = [(cell, cell["ratios"][arm]["throughput"]) for cell in found if cell["ratios"][arm]["throughput"]]
        bars.append(
            {
                "type": "bar",
                "name": ARMS[arm],
                "x": [named(cell).replace(", ", "<br>", 1) for cell, _ in known],
                "y": [ratio["middle"] for _, ratio in known],
                "error_y": _error([(ratio["middle"], ratio["low"], ratio["high"]) for _, ratio in known]),
                "marker": {"color": f"${arm}"},
                "hovertemplate": "%{x}: %{y:.2f} ×<extra>" + ARMS[arm] + "</extra>",
            }
        )
    return _with_one(_figure(bars, "", "throughput, direct = 1"))


def _costs(costs: Sequence[Json]) -> Json:
    """What an ask costs by the company it is in: points are measured, lines the fit's a + b/n."""
    traces = []
    for number, cost in enumerate(costs):
        colour, sizes = f"$hue{number % 7}", [size for size, _ in cost["points"]]
        common = {"x": sizes, "legendgroup": cost["operation"], "name": cost["operation"]}
        dots = {
            "mode": "markers",
            "marker": {"color": colour, "size": 8},
            "y": [taken / size for size, taken in cost["points"]],
        }
        line = {"mode": "lines", "line": {"color": colour, "width": 2}, "showlegend": False, "hoverinfo": "skip"}
        fitted = [cost["a_ms"] + cost["b_ms"] / size for size in sizes]
        traces += [
            {"type": "scatter", **common, **dots, "hovertemplate": "%{x} together: %{y:.3f} ms each"},
            {"type": "scatter", **common, **line, "y": fitted},
        ]
    ticks = {"type": "log", "tickvals": [2**power for power in range(8)]}
    return _figure(traces, "asks in one statement", "ms an ask", xaxis=ticks, yaxis=_MS)


def _delays(cells: Sequence[Json], proxy: Sequence[Json]) -> Json:
    found = [cell for cell in cells if cell["section"] == "delays" and cell["ratios"]["channel"]["throughput"]]
    taken = {one["delay_ms"]: one["round_trip_ms"] for one in proxy}
    lines = []
    for number, (workload, level) in enumerate(dict.fromkeys((cell["workload"], cell["in_flight"]) for cell in found)):
        of_line = [cell for cell in found if (cell["workload"], cell["in_flight"]) == (workload, level)]
        ratios = [cell["ratios"]["channel"]["throughput"] for cell in of_line]
        lines.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"{workload}, {level} in flight",
                "x": [f"+ {cell['delay_ms']:g} ms<br>(really {taken.get(cell['delay_ms'], 0):.2f})" for cell in of_line],
                "y": [ratio["middle"] for ratio in ratios],
                "error_y": _error([(ratio["middle"], ratio["low"], ratio["high"]) for ratio in ratios]),
                "line": {"color": f"$hue{number % 7}", "width": 2.5},
                "marker": {"size": 9},
                "hovertemplate": "%{y:.2f} × direct",
            }
        )
    return _with_one(_figure(lines, "round trip to the database", "throughput, direct = 1"))


def _cpu(cells: Sequence[Json]) -> Json:
    """Two bars an operation, server and database on top of each other."""
    found = _most_in_flight(cells)
    bars = []
    for arm in _arms(found):
        for part, shade in (("server", ""), ("database", "-pale")):
            bars.append(
                {
                    "type": "bar",
                    "name": f"{ARMS[arm]}: {part}",
                    "x": [[cell["workload"] for cell in found], [ARMS[arm]] * len(found)],
                    "y": [_of(cell, arm, f"{part}_us") for cell in found],
                    "marker": {"color": f"${arm}{shade}"},
                    "hovertemplate": "%{y:.0f} µs<extra>" + f"{ARMS[arm]}: {part}" + "</extra>",
                }
            )
    figure = _figure(bars, "", "CPU, µs an answer")
    figure["layout"]["barmode"] = "stack"
    return figure


def _most_in_flight(cells: Sequence[Json]) -> list[Json]:
    found = [cell for cell in cells if cell["section"] in ("levels", "baseline")]
    most = max((cell["in_flight"] for cell in found), default=0)
    return [cell for cell in found if cell["in_flight"] == most]


def _arms(cells: Sequence[Json]) -> list[str]:
    return list(dict.fromkeys(arm for cell in cells for arm in cell["arms"]))


def _of(cell: Json, arm: str, figure: str) -> float | None:
    found: float | None = cell["arms"].get(arm, {}).get(figure)
    return found


def _error(intervals: Sequence[tuple[float, float, float]]) -> Json:
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - middle for middle, _, high in intervals],
        "arrayminus": [middle - low for middle, low, _ in intervals],
        "color": "$ink",
        "thickness": 1.5,
    }


def _with_one(figure: Json) -> Json:
    """A line where both are alike."""
    line = {"color": "$ink", "width": 1.5, "dash": "dot"}
    figure["layout"]["shapes"] = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "line": line}]
    return figure
