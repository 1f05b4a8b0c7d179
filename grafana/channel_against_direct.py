"""The dashboard "Channel against direct": whether channels are worth it, and where the time goes on both paths."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel
from grafana_foundation_sdk.models.units import PercentUnit, Seconds, Short

from grafana import causes, surroundings
from grafana.frame import framed
from grafana.panels import Query, Section, Told, heat, lines, note, number
from grafana.promql import DURATION, OURS, WHOLE, WINDOW, increase, mean, quantile

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
    told = "Whether requests through channels are answered faster than direct ones, and why."
    return framed("Channel against direct", told, [_headline(), *causes.sections(), surroundings.of_both_paths(), _long_ago()])


def _headline() -> Section:
    about = note("How to read this", "What counts as evidence here, and what does not.", READ_ME, height=9)
    return Section(
        "Treatment against control, on the same warm tenants",
        [about, *_in_numbers(), *_over_time(), *_by_operation(), *_distributions()],
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


def _distributions() -> list[Builder[Panel]]:
    told = "How many answers of this arm fell between two bounds, √2 apart, in each comparison window."
    return [
        heat(Told(f"Latency of {name}", told, Seconds), increase(f"{DURATION}_bucket", "le", OURS, arm, window=WINDOW))
        for name, arm in (("treatment", TREATMENT), ("control", CONTROL))
    ]


def _long_ago() -> Section:
    """By the recording rules: over weeks, the buckets themselves would be too many to read."""
    by_arm = "operation_arm:sluice_request_duration_seconds"
    total, count = (f"sum by (arm) (sum_over_time({by_arm}_{part}:rate5m{{{OURS},{ARMS}}}[1h]))" for part in ("sum", "count"))
    buckets = f"sum by (arm, le) (sum_over_time(arm_le:sluice_request_duration_seconds_bucket:rate5m{{{ARMS}}}[1h]))"
    return Section(
        "Over weeks",
        [
            lines(
                Told(
                    "Mean by arm, hour by hour",
                    "Of recording rules, so that 90 days open quickly. Exact, as above; each point is the hour before it.",
                    Seconds,
                ),
                Query(f"{total} / {count}", "{{arm}}"),
            ),
            lines(
                Told(
                    "p99 by arm, hour by hour",
                    "Of all operations; less than about 40 % apart is no evidence. Each point is the hour before it.",
                    Seconds,
                ),
                Query(f"histogram_quantile(0.99, {buckets})", "{{arm}}"),
            ),
        ],
    )
