"""What all dashboards have: a head, the same variables, marks for what happened, and links to each other."""

from collections.abc import Sequence
from typing import Any

from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    IntervalVariable,
    QueryVariable,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from grafana.panels import SOURCE, Section, assembled
from grafana.promql import FIRING, JOBS, REQUESTS

TAG = "sluice"
STEP = "10s"
"""As often as Prometheus scrapes: what is marked is not marked more sharply than it was seen."""

ALL = VariableOption(selected=True, text=["All"], value=["$__all"])


def framed(
    title: str, description: str, sections: Sequence[Section], *, operation: bool = True, facility: bool = False
) -> Dashboard:
    """`operation`, `facility`: whether its panels ask for these; a variable that is not asked for is only carried along."""
    head = Dashboard(title).uid(f"sluice-{title.lower().replace(' ', '-')}").tags([TAG]).description(description)
    head = head.editable().tooltip(DashboardCursorSync.CROSSHAIR).time("now-1h", "now").refresh(STEP).version(1)
    head = head.variables(_variables(operation=operation, facility=facility))
    for mark in MARKS:
        head = head.annotation(mark)
    links = DashboardLink("Dashboards of Sluice").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return assembled(head.link(links.include_vars(True).keep_time(True)), sections)


def _variables(*, operation: bool, facility: bool) -> list[Builder[models.VariableModel]]:
    """The datasource, the operations or facilities, and the window of the comparisons."""
    window = IntervalVariable("interval").label("Comparison window").values("1m,5m,15m,1h,6h")
    window = window.current(VariableOption(selected=True, text="15m", value="15m"))
    several = _several("operation", REQUESTS).label("Operation").regex("/^(?!none$|report_).*/")
    facilities = _several("facility", "sluice_facility_polls_total").label("Facility")
    return [
        DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        several if operation else several.hide(VariableHide.HIDE_VARIABLE),
        window if operation else window.hide(VariableHide.HIDE_VARIABLE),
        *([facilities] if facility else []),
    ]


def _several(label: str, metric: str) -> QueryVariable:
    found = QueryVariable(label).datasource(SOURCE).sort(VariableSort.ALPHABETICAL_ASC)
    found = found.query({"query": f"label_values({metric}, {label})", "refId": label})
    found = found.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True).include_all(True).all_value(".*")
    return found.current(ALL)


class Annotation(models.AnnotationQuery):
    """The SDK's own type lacks what Prometheus' annotations have beside the common."""

    more: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), **self.more}


class Mark(Builder[models.AnnotationQuery]):
    """Drawn where the expression is above 0. `titled` and `told` may name labels in {{}}; `tags` are labels, too.

    The expression stands as `expr` and in `target`: older Grafanas read the first.
    """

    def __init__(self, name: str, expression: str, *, colour: str, titled: str, told: str, tags: str) -> None:
        self._made = Annotation(name=name, datasource=SOURCE, icon_color=colour, expr=expression)
        target = {"expr": expression, "interval": STEP, "refId": "Anno"}
        self._made.more = {"step": STEP, "tagKeys": tags, "target": target, "textFormat": told, "titleFormat": titled}

    def build(self) -> models.AnnotationQuery:
        return self._made


_WARM_UPS = 'sluice_tenant_transitions_total{transition="warm_up"}'
_AGE = f"time() - process_start_time_seconds{{{JOBS}}}"
# Each step sees a process that began since the last one, and was scraped since: that takes a scrape, and somewhat more.
_YOUNG = f"({_AGE} < $__interval_ms / 1000 + 30)"
_VERSION = "on (job, instance) group_left (version) sluice_build_info"

MARKS = (
    # No increase(): that would mark one warm-up for as long as its window is.
    Mark(
        "Warm-ups",
        f"sum({_WARM_UPS}) - sum({_WARM_UPS} offset $__interval) > 0",
        colour="blue",
        titled="Warm-up",
        told="A tenant's channels were opened",
        tags="",
    ),
    Mark(
        "Deploys",
        f"{_YOUNG} * {_VERSION}",
        colour="purple",
        titled="Started",
        told="{{job}} {{instance}}, version {{version}}",
        tags="job,version",
    ),
    Mark(
        "Alerts",
        FIRING,
        colour="red",
        titled="{{alertname}}",
        told="{{severity}} {{job}} {{instance}}",
        tags="alertname,severity",
    ),
)
"""What happened, on every dashboard."""
