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

OURS = 'operation=~"$operation"'
JOB = 'job="sluice"'


def selector(*conditions: str) -> str:
    """`{a="b",c="d"}` of conditions as they stand in PromQL; nothing of none."""
    return f"{{{','.join(conditions)}}}" if conditions else ""


def per_second(counter: str, by: str, *conditions: str, window: str = SMOOTH) -> str:
    """Events a second, summed over all labels that `by` does not name."""
    return f"sum by ({by}) (rate({counter}{selector(*conditions)}[{window}]))"


def increase(counter: str, by: str, *conditions: str, window: str = SMOOTH) -> str:
    """Events in the window; Prometheus extrapolates to its ends, so it need not be a whole number."""
    return f"sum by ({by}) (increase({counter}{selector(*conditions)}[{window}]))"


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
