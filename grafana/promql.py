"""The few shapes of PromQL that the dashboards are made of."""

SMOOTH = "$__rate_interval"
"""Grafana's own window, at least four scrapes long: for lines over time."""

WINDOW = "$interval"
"""The reader's choice: for comparisons, which need many requests of each arm in one window."""

WHOLE = "$__range"
"""All that the dashboard shows: for single numbers."""


DURATION = "sluice_request_duration_seconds"
STAGE = "sluice_stage_duration_seconds"
REQUESTS = "sluice_requests_total"
BATCH = "sluice_batch_size"
REPORT = "sluice_report_duration_seconds"

OURS = 'operation=~"$operation"'
JOB = 'job="sluice"'
JOBS = 'job=~"sluice|sluice-worker"'
"""The API's processes and the worker's: metrics that both have."""

FIRING = 'ALERTS{alertstate="firing",alertname!="SluiceWatchdog"}'
"""The watchdog always is: its silence is the alarm."""

REFUSED = 'outcome=~"429|503|504"'
"""Too much of one tenant, too much of all, too late."""


def selector(*conditions: str) -> str:
    """`{a="b",c="d"}` of conditions as they stand in PromQL; nothing of none."""
    return f"{{{','.join(conditions)}}}" if conditions else ""


def per_second(counter: str, by: str, *conditions: str, window: str = SMOOTH) -> str:
    """Events a second, summed over all labels that `by` does not name."""
    return f"sum by ({by}) (rate({counter}{selector(*conditions)}[{window}]))"


def per_minute(counter: str, by: str, *conditions: str) -> str:
    return f"60 * {per_second(counter, by, *conditions)}"


def increase(counter: str, by: str, *conditions: str, window: str = SMOOTH) -> str:
    """Events in the window; Prometheus extrapolates to its ends, so it need not be a whole number."""
    return f"sum by ({by}) (increase({counter}{selector(*conditions)}[{window}]))"


def seen(metric: str, by: str, *conditions: str) -> str:
    """Of a gauge that every process says alike, such as what it sees of the database: once, not a sum."""
    return f"max by ({by}) ({metric}{selector(*conditions)})"


def seen_per_second(counter: str, by: str, *conditions: str, window: str = SMOOTH) -> str:
    """`seen` of a counter."""
    return f"max by ({by}) (rate({counter}{selector(*conditions)}[{window}]))"


def seen_increase(counter: str, by: str, *conditions: str, window: str = SMOOTH) -> str:
    return f"max by ({by}) (increase({counter}{selector(*conditions)}[{window}]))"


def by_host(vector: str) -> str:
    """With the label `host`: the instance without its port, so that processes of one machine come together."""
    return f'label_replace({vector}, "host", "$1", "instance", "(.+):[0-9]+")'


def mean(histogram: str, by: str, *conditions: str, window: str = SMOOTH) -> str:
    """The true mean, from the sum and the count: never a mean of quantiles."""
    total = per_second(f"{histogram}_sum", by, *conditions, window=window)
    return f"{total} / {per_second(f'{histogram}_count', by, *conditions, window=window)}"


def quantile(share: float, histogram: str, by: str, *conditions: str, window: str = SMOOTH) -> str:
    """Of all buckets summed first: quantiles of several series cannot be averaged."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {per_second(f'{histogram}_bucket', labels, *conditions, window=window)})"


def share(part: str, whole: str) -> str:
    """0 where there is no part at all, instead of nothing; both must be summed by the same labels."""
    return f"({part} or 0 * {whole}) / {whole}"


def or_zero(expression: str, label: str = "") -> str:
    """0 where there is nothing: of what is rare, no line at all reads like a fault of the dashboard. Its `label` is `none`."""
    zero = f'label_replace(vector(0), "{label}", "none", "", "")' if label else "vector(0)"
    return f"{expression} or on () {zero}"


def top(expression: str, most: int = 10) -> str:
    return f"topk({most}, {expression})"
