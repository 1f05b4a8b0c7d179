"""The dashboard "Channel against direct": whether channels are worth it, and where the time goes on both paths."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, IntervalVariable, QueryVariable
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    Panel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.units import PercentUnit, Seconds, Short

from grafana import causes, surroundings
from grafana.panels import SOURCE, Query, Section, Told, assembled, lines, note, number
from grafana.promql import DURATION, OURS, REQUESTS, WHOLE, WINDOW, increase, mean, quantile

ARMS = 'arm=~"treatment|control"'
TREATMENT = 'arm="treatment"'
CONTROL = 'arm="control"'

READ_ME = """\
**The result is the first section: treatment against control.** Both arms are requests of the *same warm tenants*,
parted by the server at random (`SLUICE_CONTROL_SHARE`): *treatment* went through the channel, *control* direct.

**By path is no result.** Cold tenants are always direct and warm ones mostly channel: different tenants, other hours,
other warmth of caches. Those panels say where the time goes on each path, not which path is better. The arms share
pool and event loop too, so a saturated channel slows its own control.

**Quantiles are read off buckets** whose bounds lie 41 % apart (√2): two quantiles less than about 40 % apart are no
evidence of a difference. Means come from sums and counts and are exact; compare these, and no quantile is ever
averaged.

**Latency counts answers alone** (200, 304, 404). A path that refuses looks fast: read refusals and errors beside it.
An arm with few requests says little: its count is shown, and a longer `Comparison window` helps.
"""


def dashboard() -> Dashboard:
    sections = [_headline(), *causes.sections(), *surroundings.sections()]
    head = Dashboard("Channel against direct").uid("sluice-channel-against-direct").tags(["sluice"])
    head = head.description("Whether requests through channels are answered faster than direct ones, and why.")
    head = head.editable().tooltip(DashboardCursorSync.CROSSHAIR).time("now-1h", "now").refresh("30s").version(1)
    return assembled(_with_variables(head), sections)


def _with_variables(head: Dashboard) -> Dashboard:
    """The datasource, the operations, and the window of the comparisons."""
    operation = QueryVariable("operation").label("Operation").datasource(SOURCE).sort(VariableSort.ALPHABETICAL_ASC)
    operation = operation.query({"query": f"label_values({REQUESTS}, operation)", "refId": "operation"})
    operation = operation.regex("/^(?!none$).*/").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    operation = operation.multi(True).include_all(True).all_value(".*")
    window = IntervalVariable("interval").label("Comparison window").values("1m,5m,15m,1h,6h")
    return head.variables(
        [
            DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
            operation.current(VariableOption(selected=True, text=["All"], value=["$__all"])),
            window.current(VariableOption(selected=True, text="15m", value="15m")),
        ]
    )


def _headline() -> Section:
    about = note("How to read this", "What counts as evidence here, and what does not.", READ_ME, height=9)
    return Section(
        "Treatment against control, on the same warm tenants",
        [about, *_in_numbers(), *_over_time(), *_by_operation()],
    )


def _in_numbers() -> list[Builder[Panel]]:
    treated, control = (mean(DURATION, "", OURS, arm, window=WHOLE) for arm in (TREATMENT, CONTROL))
    arms = (OURS, ARMS)
    answered = increase(f"{DURATION}_count", "arm", *arms, window=WHOLE)
    return [
        number(
            Told("Mean by arm", "Over all the time shown. Exact: the sum of seconds over the number of answers.", Seconds),
            Query(mean(DURATION, "arm", *arms, window=WHOLE), "{{arm}}"),
        ),
        number(
            Told(
                "p99 by arm", "Over all the time shown, read off buckets: less than about 40 % apart is no evidence.", Seconds
            ),
            Query(quantile(0.99, DURATION, "arm", *arms, window=WHOLE), "{{arm}}"),
        ),
        number(
            Told("Treatment minus control", "Of the means, over all the time shown. Below zero, channels are faster.", Seconds),
            Query(f"{treated} - {control}", "difference"),
            span=4,
        ),
        number(
            Told(
                "Treatment over control",
                "Of the means, over all the time shown. Below 100 %, channels are faster.",
                PercentUnit,
            ),
            Query(f"{treated} / ({control})", "ratio"),
            span=4,
        ),
        number(
            Told("Answers by arm", "How much the numbers beside rest on. A few hundred of an arm say little.", Short),
            Query(answered, "{{arm}}"),
            span=4,
        ),
    ]


def _over_time() -> list[Builder[Panel]]:
    arms = (OURS, ARMS)
    return [
        lines(
            Told(
                "Mean by arm, over time",
                "In each comparison window; the arms' mix of operations is the same by chance.",
                Seconds,
            ),
            Query(mean(DURATION, "arm", *arms, window=WINDOW), "{{arm}}"),
        ),
        lines(
            Told("p99 by arm, over time", "In each comparison window; less than about 40 % apart is no evidence.", Seconds),
            Query(quantile(0.99, DURATION, "arm", *arms, window=WINDOW), "{{arm}}"),
        ),
    ]


def _by_operation() -> list[Builder[Panel]]:
    treated, control = (mean(DURATION, "operation", OURS, arm, window=WINDOW) for arm in (TREATMENT, CONTROL))
    return [
        lines(
            Told(
                "Treatment minus control, by operation",
                "Of the means in each comparison window. Below zero, the channel is faster for this operation.",
                Seconds,
            ),
            Query(f"{treated} - {control}", "{{operation}}"),
        ),
        lines(
            Told(
                "Treatment over control, by operation",
                "Of the means in each comparison window. Below 100 %, the channel is faster for this operation.",
                PercentUnit,
            ),
            Query(f"{treated} / ({control})", "{{operation}}"),
        ),
    ]
