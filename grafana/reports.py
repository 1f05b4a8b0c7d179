"""The dashboard "Reports": how fresh the views are, what keeping them so costs, and how quickly reports are answered."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.units import CountsPerMinute, PercentUnit, RequestsPerSecond, Seconds, Short

from grafana import surroundings
from grafana.frame import framed
from grafana.panels import Query, Section, Told, heat, lines, number
from grafana.promql import REPORT, REQUESTS, WHOLE, increase, mean, or_zero, per_minute, per_second, quantile, seen

REFRESH = "sluice_view_refresh_duration_seconds"
AGE = seen("sluice_view_age_seconds", "view")
FRESHNESS = seen("sluice_view_freshness_seconds", "view")
OURS = 'operation=~"report_.*"'
POOL = 'pool="report"'


def dashboard() -> Dashboard:
    told = "How fresh the report views are, what keeping them so costs, and how quickly reports are answered."
    return framed("Reports", told, [_freshness(), _refreshing(), _answers(), _pool()], operation=False)


def _freshness() -> Section:
    return Section(
        "Freshness of the views",
        [
            number(
                Told("Age by view", "How long ago nothing was missing in it. `sluice views status` tells more.", Seconds),
                Query(AGE, "{{view}}"),
                span=9,
            ),
            number(
                Told("Rows by view", "At the last look of a worker.", Short),
                Query(seen("sluice_view_rows", "view"), "{{view}}"),
                span=9,
            ),
            number(
                Told("Failed refreshes", "In all the time shown; each is tried again, later each time.", Short),
                Query(increase(f"{REFRESH}_count", "", 'outcome="failed"', window=WHOLE), "failed"),
                span=6,
                alarming_from=1,
            ),
            lines(
                Told(
                    "Age of each view",
                    "A view with nothing to do stays at a few seconds, one that is refreshed makes a saw.",
                    Seconds,
                ),
                Query(AGE, "{{view}}"),
                Query(FRESHNESS, "{{view}} may be"),
            ),
            lines(
                Told(
                    "Age against what is asked",
                    "100 % is the freshness that is asked, or the interval. A minute beyond 200 % an alert says so.",
                    PercentUnit,
                ),
                Query(f"{AGE} / {FRESHNESS}", "{{view}}"),
            ),
        ],
    )


def _refreshing() -> Section:
    done = 'outcome=~"refreshed|applied"'
    return Section(
        "Refreshing",
        [
            lines(
                Told("Refreshes a minute", "refreshed: as a whole; applied: its changes alone; failed.", CountsPerMinute),
                Query(per_minute(f"{REFRESH}_count", "view, outcome"), "{{view}} {{outcome}}"),
                span=8,
            ),
            lines(
                Told(
                    "Mean duration of a refresh",
                    "Exact. Near its interval, a view is kept by its changes alone instead.",
                    Seconds,
                ),
                Query(mean(REFRESH, "view, outcome", done), "{{view}} {{outcome}}"),
                span=8,
            ),
            lines(
                Told("p95 of a refresh", "Read off buckets that double: only a factor of two is evidence.", Seconds),
                Query(quantile(0.95, REFRESH, "view, outcome", done), "{{view}} {{outcome}}"),
                span=8,
            ),
            lines(
                Told(
                    "Time spent on refreshing",
                    "Seconds a second, all workers. At 1 one core of the database does nothing else.",
                    Short,
                ),
                Query(per_second(f"{REFRESH}_sum", "view"), "{{view}}"),
                span=8,
                stacked=True,
            ),
            lines(
                Told(
                    "Not needed",
                    "Due, and left: nothing changed, too few changes, or another worker was at it.",
                    CountsPerMinute,
                ),
                Query(per_minute("sluice_view_skipped_total", "view, reason"), "{{view}} {{reason}}"),
                span=8,
            ),
            lines(
                Told("Rows of each view", "A fall is a facility or tenant that went, or a fault.", Short),
                Query(seen("sluice_view_rows", "view"), "{{view}}"),
                span=8,
            ),
        ],
    )


def _answers() -> Section:
    refused = (OURS, 'outcome=~"4..|5..|cancelled"')
    return Section(
        "Reports as they are asked for",
        [
            lines(
                Told("Reports by status", "All answers, refusals among them.", RequestsPerSecond),
                Query(per_second(REQUESTS, "operation, outcome", OURS), "{{operation}} {{outcome}}"),
            ),
            lines(
                Told(
                    "Refused, failed or left",
                    "server-busy: the report pool is full; expired: longer than may be; left: by the client.",
                    RequestsPerSecond,
                ),
                Query(
                    or_zero(per_second(REQUESTS, "operation, outcome, reason", *refused), "operation"),
                    "{{operation}} {{outcome}} {{reason}}",
                ),
            ),
            lines(
                Told("Latency of reports", "Mean and p99, to the finished answer; a CSV file's to its last row.", Seconds),
                Query(mean(REPORT, "report"), "{{report}} mean"),
                Query(quantile(0.99, REPORT, "report"), "{{report}} p99"),
            ),
            heat(
                Told("Latency of all reports", "How many answers fell between two bounds, √2 apart.", Seconds),
                increase(f"{REPORT}_bucket", "le"),
            ),
        ],
    )


def _pool() -> Section:
    return Section(
        "The reports' own connections",
        [
            surroundings.pool_waits("for reports", POOL, span=8),
            surroundings.pool_use("for reports", POOL, span=8),
            surroundings.pool_faults("for reports", POOL, span=8),
        ],
    )
