"""Panels that more than one dashboard shows: tenants' throughput, pools, the process. Each is told once, here."""

from grafana_foundation_sdk.builders import timeseries
from grafana_foundation_sdk.models.units import BytesIEC, CountsPerSecond, PercentUnit, Seconds, Short

from grafana.panels import Query, Section, Told, lines
from grafana.promql import JOBS, OURS, increase, mean, or_zero, per_second, quantile, selector, top

WAIT = "sluice_pool_wait_seconds"
API = 'pool="api"'
API_JOB = 'job="sluice"'
_PROCESS = "{{job}} {{instance}}"


def of_both_paths() -> Section:
    """What channel and direct share, in the least that the comparison cannot be read without."""
    return Section(
        "What both paths share (more on Tenants and System)",
        [
            messages_by_tenant(),
            pool_waits("of the API", API),
            loop_lag(API_JOB),
            cpu(API_JOB),
        ],
    )


def messages_by_tenant() -> timeseries.Panel:
    messages = per_second("sluice_channel_messages_total", "tenant", OURS)
    return lines(
        Told(
            "Throughput by tenant",
            "Requests put into channels, the ten busiest. A hundred tenants have a name, the rest are `other`.",
            CountsPerSecond,
        ),
        Query(top(messages), "{{tenant}}"),
    )


def pool_waits(whose: str, *conditions: str, span: int = 12) -> timeseries.Panel:
    return lines(
        Told(
            f"Waiting for a connection {whose}",
            "Mean and p99 of all loans; those that got one at once count as 0, those that waited in vain count, too. "
            "Both paths share the pool `api`.",
            Seconds,
        ),
        Query(mean(WAIT, "pool", *conditions), "{{pool}} mean"),
        Query(quantile(0.99, WAIT, "pool", *conditions), "{{pool}} p99"),
        span=span,
    )


def pool_use(whose: str, *conditions: str, span: int = 12) -> timeseries.Panel:
    lent = per_second("sluice_pool_busy_seconds_total", "pool", *conditions)
    size = f"sum by (pool) (sluice_pool_connections{selector(*conditions)})"
    return lines(
        Told(
            f"Use of connections {whose}",
            "The share of the open connections that was lent, on average. Near 100 % somebody waits.",
            PercentUnit,
        ),
        Query(f"{lent} / {size}", "{{pool}}"),
        span=span,
    )


def pool_faults(whose: str, *conditions: str, span: int = 12) -> timeseries.Panel:
    return lines(
        Told(
            f"Waited in vain, held too long {whose}",
            "Who got no connection in time was refused; who keeps one for over SLUICE_POOL_HELD_S is named in the log. "
            "Both should be 0.",
            Short,
        ),
        Query(or_zero(increase("sluice_pool_timeouts_total", "pool", *conditions), "pool"), "{{pool}} in vain"),
        Query(or_zero(increase("sluice_pool_held_long_total", "pool", *conditions), "pool"), "{{pool}} too long"),
        span=span,
    )


def loop_lag(condition: str = JOBS, *, span: int = 12) -> timeseries.Panel:
    return lines(
        Told(
            "Event-loop lag",
            "p99 of how late a timer ran: whatever blocks the loop delays every request of the process.",
            Seconds,
        ),
        Query(quantile(0.99, "sluice_event_loop_lag_seconds", "job, instance", condition), _PROCESS),
        span=span,
    )


def cpu(condition: str = JOBS, *, span: int = 12) -> timeseries.Panel:
    return lines(
        Told("CPU of each process", "Cores in use. A process has one to give, --workers N has N.", Short),
        Query(per_second("process_cpu_seconds_total", "job, instance", condition), _PROCESS),
        span=span,
    )


def memory(condition: str = JOBS, *, span: int = 12) -> timeseries.Panel:
    return lines(
        Told("Memory of each process", "Resident memory. A line that only ever rises is a leak.", BytesIEC),
        Query(f"sum by (job, instance) (process_resident_memory_bytes{selector(condition)})", _PROCESS),
        span=span,
    )
