"""Why the paths differ: traffic and refusals, latency, stages, batches. By path, and so no comparison of like with like."""

from grafana_foundation_sdk.builders import timeseries
from grafana_foundation_sdk.models.units import PercentUnit, RequestsPerSecond, Seconds, Short

from grafana.panels import Query, Section, Told, heat, lines
from grafana.promql import BATCH, DURATION, OURS, REQUESTS, STAGE, increase, mean, or_zero, per_second, quantile, share


def sections() -> list[Section]:
    return [_traffic(), _latency(), _stages(), _batches()]


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
                Query(
                    or_zero(per_second(REQUESTS, "path, outcome, reason", *refused), "path"), "{{path}} {{outcome}} {{reason}}"
                ),
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
            heat(
                Told("Latency on the channel path", described, Seconds),
                increase(f"{DURATION}_bucket", "le", OURS, 'path="channel"'),
            ),
            heat(
                Told("Latency on the direct path", described, Seconds),
                increase(f"{DURATION}_bucket", "le", OURS, 'path="direct"'),
            ),
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
        ]
        + [_waiting_against_working()],
    )


def _waiting_against_working() -> timeseries.Panel:
    return lines(
        Told(
            "Queue wait against query time",
            "Means by path. What the channel wins in statements it must not lose in its queue; direct waits for a turn, too.",
            Seconds,
        ),
        *(
            Query(mean(STAGE, "path", OURS, f'stage="{stage}"'), f"{{{{path}}}} {named}")
            for stage, named in (("queue", "waits"), ("query", "is queried"))
        ),
        span=24,
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
                increase(f"{BATCH}_bucket", "le", OURS),
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
