"""The dashboards: current, well formed, and alike. What they show is asked in test_dashboards_live.py."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import build
from tests.asked import catalogued, dashboards, expressions, known, marks, panels
from tests.prometheus import CLOCK, CONFIG, GRAFANA, needs_prometheus, ran, started

SHOWN_WITHIN_S = 30
"""What the issue asks: from an event to its being on a dashboard."""


def test_committed_is_current() -> None:
    """The committed JSON is what the code makes."""
    assert build.faults(build.FOLDER) == []


def test_check_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--check` ends with 1 and says which file is missing, differs, or is made by no code."""
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    file = tmp_path / "channel-against-direct.json"
    with pytest.raises(SystemExit, match=f"{file.name} is missing"):
        build.main(["--check"])
    build.main([])
    build.main(["--check"])
    file.write_text(file.read_text().replace("p99", "p98", 1))
    (tmp_path / "old.json").write_text("{}")
    with pytest.raises(SystemExit, match=f"{file.name} is not what the code makes\nold.json is made by no code\nrun: "):
        build.main(["--check"])


def test_panels_say_what_they_show() -> None:
    """Every panel has a title, a description and options; every one that draws a unit, a legend and a tooltip too."""
    for _, panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["options"]
        if panel["type"] != "text":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert all(target["legendFormat"] for target in panel["targets"])
        if panel["type"] in ("timeseries", "heatmap"):
            assert {"legend", "tooltip"} <= panel["options"].keys()


def test_panels_stand_apart() -> None:
    """No two panels share a number or a cell of the grid."""
    for dashboard in dashboards().values():
        everything = dashboard["panels"]
        cells = [cell for panel in everything for cell in _cells(panel["gridPos"])]
        assert len({panel["id"] for panel in everything}) == len(everything)
        assert len(set(cells)) == len(cells)
        assert max(column for column, _ in cells) == 23


def _cells(at: dict[str, int]) -> list[tuple[int, int]]:
    return [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]


def test_titles_are_told_once() -> None:
    """On one dashboard no two panels have one title, and no description stands twice for different things."""
    for name, dashboard in dashboards().items():
        titles = [panel["title"] for panel in dashboard["panels"] if panel["type"] not in ("row", "stat")]
        assert sorted(titles) == sorted(set(titles)), name


def test_dashboards_are_alike() -> None:
    """All have the same variables and marks, lead to each other with what was chosen, and look again every scrape."""
    assert len(dashboards()) == 5
    for name, dashboard in dashboards().items():
        assert dashboard["uid"] == f"sluice-{name}"
        assert (dashboard["tags"], dashboard["refresh"]) == (["sluice"], CLOCK["scrape_interval"])
        variables = [variable["name"] for variable in dashboard["templating"]["list"]]
        assert [name for name in variables if name != "facility"] == ["datasource", "operation", "interval"]
        (link,) = dashboard["links"]
        assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == ("dashboards", ["sluice"], True, True)
    assert list(marks()) == ["Warm-ups", "Deploys", "Alerts"]


def test_json_is_grafanas() -> None:
    """Read into the SDK's types and written again each dashboard is the same, and nothing that Grafana wants is null."""
    for dashboard in dashboards().values():
        assert dashboard["schemaVersion"] >= 36
        assert list(_nulls(dashboard)) == []
        for mark in dashboard["annotations"]["list"]:  # the SDK knows less of these
            assert mark["target"]["expr"] == mark["expr"]
            for name in ("target", "step", "tagKeys", "textFormat", "titleFormat"):
                del mark[name]
        assert json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder)) == dashboard


def _nulls(value: Any, path: str = "") -> Iterator[str]:
    """Where something is null; the base of a threshold is."""
    if value is None and not re.search(r"/thresholds/steps/0/value$", path):
        yield path
    for key, member in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _nulls(member, f"{path}/{key}")


def test_expressions_parse() -> None:
    """Each expression is PromQL, of metrics that the catalogues have or the rules record."""
    metrics = known()
    for place, expression in [*((asked.place, asked.expression) for asked in expressions()), *marks().items()]:
        promql_parser.parse(expression)
        named = set(re.findall(r"\b(?:\w+:\w[\w:]*|(?:sluice|process)_\w+)", expression))
        assert {name for name in named if not {name, re.sub("_(bucket|sum|count)$", "", name)} & metrics} == set(), place
    for asked in expressions():
        promql_parser.parse(asked.without_zero)


def test_every_metric_is_shown() -> None:
    """On some dashboard; but for the address space, of which Python and PostgreSQL's client take as much as they like."""
    asked = " ".join([*(found.expression for found in expressions()), *marks().values()])
    assert {name for name in catalogued() if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", asked)} == {
        "process_virtual_memory_bytes"
    }


def test_event_is_shown_soon() -> None:
    """From an event to its scrape, to the rules' evaluation, to the next look of a dashboard: 30 s at most, all together."""
    scrape_s, evaluation_s = (int(CLOCK[name].removesuffix("s")) for name in ("scrape_interval", "evaluation_interval"))
    for dashboard in dashboards().values():
        assert scrape_s + evaluation_s + int(dashboard["refresh"].removesuffix("s")) <= SHOWN_WITHIN_S
    source = (GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text(encoding="utf-8")
    assert f"timeInterval: {CLOCK['scrape_interval']}" in source


@needs_prometheus
async def test_start_command(tmp_path: Path) -> None:
    """The start command runs the committed configuration with its rules, and keeps what it scrapes for 90 days."""
    where = {"PROMETHEUS_DATA": str(tmp_path / "data"), "PROMETHEUS_LISTEN": "127.0.0.1:0"}
    async with started(tmp_path / "log", str(GRAFANA / "start-prometheus.sh"), **where) as prometheus:
        assert (await prometheus.api("status/flags"))["storage.tsdb.retention.time"] == "90d"
        files = {Path(group["file"]).name for group in (await prometheus.api("rules"))["groups"]}
        assert files == {file.name for file in GRAFANA.glob("alerts/rules/*.yml")}
        said = (await prometheus.api("status/config"))["yaml"]
        assert re.findall("job_name: (.*)", said) == ["sluice", "sluice-worker"]
        assert set(re.findall("(?:scrape|evaluation)_interval: (.*)", said)) == {"10s"}


@needs_prometheus
async def test_config_is_sound() -> None:
    """Promtool takes the committed configuration."""
    code, said = await ran("promtool", "check", "config", str(CONFIG))
    assert (code, "SUCCESS" in said) == (0, True), said
