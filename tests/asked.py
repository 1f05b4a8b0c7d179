"""What the committed dashboards ask: their panels, expressions and marks, with Grafana's variables put in."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from grafana import build
from metrics.catalog import Metrics, WorkerMetrics
from tests.prometheus import GRAFANA

# What Grafana puts in place of its variables; the windows are as long as the test's few scrapes need.
VARIABLES = {
    "$__rate_interval": "1m",
    "$__range": "1m",
    "$__interval_ms": "600000",  # all processes of a test are young
    "$__interval": "1s",
    "$interval": "1m",
    "$operation": ".*",
    "$facility": ".*",
}


class Asked(NamedTuple):
    """A panel's expression with its variables put in, where it stands, and how its series are named."""

    place: str
    expression: str
    legend: str

    @property
    def without_zero(self) -> str:
        """Without what is shown where there is nothing."""
        return re.sub(r" or on \(\) (label_replace\(.*?\)(?=\)|$), \"\", \"\"\)|vector\(0\))", "", self.expression)


def dashboards() -> dict[str, dict[str, Any]]:
    """The committed ones, by name."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(build.FOLDER.glob("*.json"))}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """(dashboard's name, panel) of all."""
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            if panel["type"] != "row":
                yield name, panel


def expressions() -> list[Asked]:
    """Of every panel."""
    return [
        Asked(f"{name}: {panel['title']} {target['refId']}", substituted(target["expr"]), target["legendFormat"])
        for name, panel in panels()
        for target in panel.get("targets", ())
    ]


def marks() -> dict[str, str]:
    """The annotations' expressions, by name."""
    (made,) = {json.dumps(dashboard["annotations"]["list"]) for dashboard in dashboards().values()}
    return {mark["name"]: substituted(mark["expr"]) for mark in json.loads(made)}


def catalogued() -> set[str]:
    """Every metric of an API process and of a worker."""
    catalogues = (Metrics(), WorkerMetrics())
    for metrics in catalogues:
        metrics.add_process()
    return {name for metrics in catalogues for name in metrics.families}


def known() -> set[str]:
    """What the catalogues have, what the rules record, and what Prometheus makes itself."""
    found = {"up", "ALERTS", *catalogued()}
    for file in GRAFANA.glob("alerts/rules/*.yml"):
        found |= set(re.findall(r"- record: (\S+)", file.read_text(encoding="utf-8")))
    return found


def substituted(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    if re.search(r"\$[^1]", expression):  # label_replace has "$1"
        raise ValueError(f"a variable that this test does not know: {expression}")
    return expression
