"""Panels in one style: each with a title, a description, a unit, a legend and a tooltip.

A panel without options would become `"options": null`, which Grafana does not open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, text, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, Row, ThresholdsConfig
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    HeatmapCellLayout,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, DynamicConfigValue, Panel, Threshold, ThresholdsMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24
HEIGHT = 8
# The same colour on every panel for the same side of the comparison.
_COLOURS = (("^(channel|treatment)$", "blue"), ("^(direct|control)$", "orange"))


class Query(NamedTuple):
    """An expression and how its series are named: `{{label}}` stands for a label's value."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Told:
    """What a panel says of itself. `unit` is one of Grafana's, of grafana_foundation_sdk.models.units."""

    title: str
    description: str
    unit: str


class Section(NamedTuple):
    """A row of the dashboard and what is below it."""

    title: str
    panels: Sequence[Builder[Panel]]


def lines(told: Told, *queries: Query, span: int = 12, stacked: bool = False) -> timeseries.Panel:
    """Lines over time; with `stacked`, areas that add up."""
    panel = timeseries.Panel().title(told.title).description(told.description).unit(told.unit).datasource(SOURCE)
    panel = panel.span(span).height(HEIGHT).legend(_legend()).tooltip(_tooltip()).targets(_targets(queries))
    panel = panel.line_width(1).fill_opacity(40 if stacked else 0)
    if stacked:
        return panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for series, colour in _COLOURS:
        fixed = DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})
        panel = panel.override_by_regexp(series, [fixed])
    return panel


def heat(told: Told, expression: str, *, span: int = 12) -> heatmap.Panel:
    """A histogram's buckets over time; the expression is summed by `le`."""
    query = _target(Query(expression, "{{le}}"), 0).format(PromQueryFormat.HEATMAP)
    panel = heatmap.Panel().title(told.title).description(told.description).unit("short").datasource(SOURCE)
    panel = panel.span(span).height(HEIGHT).with_target(query).calculate(False).show_legend().show_tooltip()
    panel = panel.rows_frame(heatmap.RowsHeatmapOptions().layout(HeatmapCellLayout.AUTO))
    return panel.cell_values(heatmap.CellValues().unit("short")).y_axis(heatmap.YAxisConfig().unit(told.unit))


def number(told: Told, *queries: Query, span: int = 6, alarming_from: float | None = None) -> stat.Panel:
    """Single numbers over all the time shown; red from `alarming_from` on."""
    panel = stat.Panel().title(told.title).description(told.description).unit(told.unit).datasource(SOURCE)
    panel = panel.span(span).height(4).graph_mode(BigValueGraphMode.NONE).text_mode(BigValueTextMode.AUTO)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    steps = [Threshold(value=None, color="text")]
    if alarming_from is not None:
        steps.append(Threshold(value=alarming_from, color="red"))
    panel = panel.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    targets = [_target(query, place).instant() for place, query in enumerate(queries)]
    return panel.color_mode(BigValueColorMode.VALUE).targets([*targets])


def note(title: str, description: str, content: str, *, height: int) -> text.Panel:
    """Markdown across the page."""
    return text.Panel().title(title).description(description).content(content).span(WIDTH).height(height)


def assembled(dashboard: Dashboard, sections: Sequence[Section]) -> Dashboard:
    """With numbers of their own, so that a link to a panel holds when Grafana reads the file anew."""
    numbered = 0
    for section in sections:
        numbered += 1
        dashboard = dashboard.with_row(Row(section.title).id(numbered))
        for panel in section.panels:
            numbered += 1
            panel.build().id_val = numbered
            dashboard = dashboard.with_panel(panel)
    return dashboard


def _target(query: Query, place: int) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id("ABCDEFGH"[place])


def _targets(queries: Sequence[Query]) -> list[Builder[Dataquery]]:
    return [_target(query, place).range() for place, query in enumerate(queries)]


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)
    return legend.display_mode(LegendDisplayMode.TABLE).calcs(["mean", "lastNotNull"])


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
