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
from grafana_foundation_sdk.models.units import BytesIEC, CountsPerSecond, PercentUnit, RequestsPerSecond, Seconds, Short

from grafana.panels import SOURCE, Query, Section, Told, assembled, heat, lines, note, number
from grafana.promql import SMOOTH, WHOLE, WINDOW, mean, per_second, quantile, selector, share

DURATION = "sluice_request_duration_seconds"
STAGE = "sluice_stage_duration_seconds"
REQUESTS = "sluice_requests_total"
BATCH = "sluice_batch_size"
OURS = 'operation=~"$operation"'
ARMS = 'arm=~"treatment|control"'
TREATMENT = 'arm="treatment"'
CONTROL = 'arm="control"'
JOB = 'job="sluice"'

READ_ME = """\
**The result is the first section: treatment against control.** Both arms are requests of the *same warm tenants*, parted by the
server at random (`SLUICE_CONTROL_SHARE`): *treatment* went through the channel, *control* direct.

**By path is no result.** Cold tenants are always direct and warm ones mostly channel: different tenants, other hours, other warmth of
caches. Those panels say where the time goes on each path, not which path is better. The arms share pool and event loop too, so a
saturated channel slows its own control.

**Quantiles are read off buckets** whose bounds lie 41 % apart (√2): two quantiles less than about 40 % apart are no evidence of a
difference. Means come from sums and counts and are exact; compare these, and no quantile is ever averaged.

**Latency counts answers alone** (200, 304, 404). A path that refuses looks fast: read refusals and errors beside it. An arm with
few requests says little: its count is shown, and a longer `Comparison window` helps.
"""


def dashboard() -> Dashboard:
    sections = [_headline(), _traffic(), _latency(), _stages(), _batches(), _tenants(), _machine()]
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
    answered = f"sum by (arm) (increase({DURATION}_count{selector(*arms)}[{WHOLE}]))"
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


def _traffic() -> Section:
    refused = (OURS, 'outcome=~"4..|5..|cancelled"', 'outcome!="404"')
    by_path = per_second(REQUESTS, "path", OURS)
    return Section(
        "Traffic, refusals and errors",
        [
            lines(
                Told(
                    "Requests by path",
                    "All answers, errors among them. `none` never got as far as a path: no key, a bad question, or no entity.",
                    RequestsPerSecond,
                ),
                Query(by_path, "{{path}}"),
            ),
            lines(
                Told(
                    "Refusals and errors",
                    "By status and reason, beside which latency must be read: a path that refuses looks fast.",
                    RequestsPerSecond,
                ),
                Query(per_second(REQUESTS, "path, outcome, reason", *refused), "{{path}} {{outcome}} {{reason}}"),
            ),
            lines(
                Told(
                    "Share not answered, by path",
                    "Too busy (429), failed or overdue (5xx), or left by the client (cancelled), of all that took this path.",
                    PercentUnit,
                ),
                Query(share(per_second(REQUESTS, "path", OURS, 'outcome=~"429|5..|cancelled"'), by_path), "{{path}}"),
            ),
            lines(
                Told(
                    "Shared answers, by operation",
                    "Channel requests answered by the statement of an equal request that waited beside them.",
                    PercentUnit,
                ),
                Query(_shared(), "{{operation}}"),
            ),
        ],
    )


def _shared() -> str:
    channel = (OURS, 'path="channel"')
    whole = per_second(f"{DURATION}_count", "operation", *channel)
    return share(per_second(f"{DURATION}_count", "operation", *channel, 'source="shared"'), whole)


def _latency() -> Section:
    quantiles = [
        Query(quantile(q, DURATION, "path", OURS), f"{{{{path}}}} p{name}") for q, name in ((0.5, 50), (0.95, 95), (0.99, 99))
    ]
    described = "How many answers fell between two bounds, √2 apart. Two clouds are two kinds of request: look by operation."
    return Section(
        "Latency by path (cold tenants among direct: no comparison)",
        [
            lines(
                Told(
                    "Mean by operation and path",
                    "Exact. Direct has the cold tenants too, so the difference between paths is not the channel's doing alone.",
                    Seconds,
                ),
                Query(mean(DURATION, "operation, path", OURS), "{{operation}} {{path}}"),
            ),
            lines(
                Told("p50, p95 and p99 by path", "Read off buckets: less than about 40 % apart is no evidence.", Seconds),
                *quantiles,
            ),
            heat(Told("Latency on the channel path", described, Seconds), _buckets(DURATION, OURS, 'path="channel"')),
            heat(Told("Latency on the direct path", described, Seconds), _buckets(DURATION, OURS, 'path="direct"')),
        ],
    )


def _stages() -> Section:
    told = (
        "Means that add up, answers alone: in the queue, for a connection, its statement, making the answer. "
        "The rest of a request's time is routing and the key."
    )
    return Section(
        "Where the time goes",
        [
            lines(
                Told(f"Stages on the {path} path", told, Seconds),
                Query(mean(STAGE, "stage", OURS, f'path="{path}"'), "{{stage}}"),
                stacked=True,
            )
            for path in ("channel", "direct")
        ],
    )


def _batches() -> Section:
    # Prometheus up to 2 keeps `le` as it was written, 3 writes 1.0.
    lone = per_second(f"{BATCH}_bucket", "operation", OURS, 'le=~"1|1[.]0"')
    return Section(
        "Batches",
        [
            heat(
                Told(
                    "Batch sizes", "Statements by how many requests each answered. Warm-up's own probes are among them.", Short
                ),
                _buckets(BATCH, OURS),
                span=8,
            ),
            lines(
                Told("Mean batch size", "Requests a statement. 1 means that channels save no statements.", Short),
                Query(mean(BATCH, "operation", OURS), "{{operation}}"),
                span=8,
            ),
            lines(
                Told("Lone requests", "The share of channel requests that had a statement to themselves.", PercentUnit),
                Query(f"{lone} / {per_second(f'{BATCH}_sum', 'operation', OURS)}", "{{operation}} of requests"),
                Query(f"{lone} / {per_second(f'{BATCH}_count', 'operation', OURS)}", "{{operation}} of statements"),
                span=8,
            ),
        ],
    )


def _tenants() -> Section:
    depth = f"topk(10, sum by (tenant) (sluice_channel_depth{selector(OURS)}))"
    messages = f"topk(10, {per_second('sluice_channel_messages_total', 'tenant', OURS)})"
    return Section(
        "Tenants and their channels",
        [
            lines(
                Told(
                    "Messages by tenant",
                    "Put into channels, the ten busiest. A hundred tenants have a name, the rest are `other`.",
                    CountsPerSecond,
                ),
                Query(messages, "{{tenant}}"),
            ),
            lines(
                Told(
                    "Depth by tenant",
                    "Waiting in channels at the scrape, the ten deepest. Between scrapes: the stage `queue`.",
                    Short,
                ),
                Query(depth, "{{tenant}}"),
            ),
            lines(
                Told(
                    "Tenants by state",
                    "Warm, warming and cooling. Each node has an actor for each warm tenant: the most of any.",
                    Short,
                ),
                Query("max by (state) (sluice_tenants)", "{{state}}"),
                span=10,
            ),
            lines(
                Told("Transitions", "Warm-ups, extensions, cooldowns that came due and those asked for (evict).", Short),
                Query(f"sum by (transition) (increase(sluice_tenant_transitions_total[{SMOOTH}]))", "{{transition}}"),
                span=10,
            ),
            number(
                Told("Tenant mismatches", "Batches thrown away because a row was nobody's who had asked. Must be 0.", Short),
                Query("sum(sluice_tenant_mismatch_total) or vector(0)", "mismatches"),
                span=4,
                alarming_from=1,
            ),
        ],
    )


def _machine() -> Section:
    wait = "sluice_pool_wait_seconds"
    lag = "sluice_event_loop_lag_seconds"
    return Section(
        "Connections and the process",
        [
            lines(
                Told(
                    "Waiting for a connection",
                    "Mean and p99 by pool, of those that got one; both paths share the pool `api`.",
                    Seconds,
                ),
                Query(mean(wait, "pool"), "{{pool}} mean"),
                Query(quantile(0.99, wait, "pool"), "{{pool}} p99"),
                span=8,
            ),
            lines(
                Told("Connections by state", "At the scrape. `missing` ones broke and are being replaced.", Short),
                Query("sum by (pool, state) (sluice_pool_connections)", "{{pool}} {{state}}"),
                span=8,
            ),
            lines(
                Told(
                    "Connections lent, on average", "Seconds lent a second. Near the pool's size, requests wait for it.", Short
                ),
                Query(per_second("sluice_pool_busy_seconds_total", "pool"), "{{pool}}"),
                span=8,
            ),
            lines(
                Told("Event-loop lag", "p99 of how late a timer ran: whatever blocks the loop delays both paths.", Seconds),
                Query(quantile(0.99, lag, "instance"), "{{instance}}"),
                span=8,
            ),
            lines(
                Told("CPU of the process", "Cores in use. At 1 a single process has no more to give.", Short),
                Query(per_second("process_cpu_seconds_total", "instance", JOB), "{{instance}}"),
                span=8,
            ),
            lines(
                Told("Memory of the process", "Resident memory.", BytesIEC),
                Query(f"sum by (instance) (process_resident_memory_bytes{selector(JOB)})", "{{instance}}"),
                span=8,
            ),
        ],
    )


def _buckets(histogram: str, *conditions: str) -> str:
    return f"sum by (le) (increase({histogram}_bucket{selector(*conditions)}[{SMOOTH}]))"
