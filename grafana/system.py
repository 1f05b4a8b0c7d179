"""The dashboard "System": the REST API's endpoints, the pools, the processes, the machine and the database."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.units import (
    BytesIEC,
    BytesPerSecondIEC,
    PercentUnit,
    RequestsPerSecond,
    Seconds,
    Short,
)

from grafana import surroundings, system_database
from grafana.frame import framed
from grafana.panels import Query, Section, Told, lines, number
from grafana.promql import (
    DURATION,
    FIRING,
    JOBS,
    REPORT,
    REQUESTS,
    WHOLE,
    by_host,
    mean,
    or_zero,
    per_second,
    quantile,
    seen,
    selector,
    share,
)

FAILED = 'outcome=~"5.."'
_PROCESS = "{{job}} {{instance}}"
# Told here alone, so that a health check or a scrape is no endpoint: they have the operation `none`.
ENDPOINTS = 'operation!="none"'


def dashboard() -> Dashboard:
    told = "The REST API by endpoint, its pools, processes, machine and database."
    sections = [_now(), _endpoints(), _objectives(), _pools(), _processes(), _machine(), *system_database.sections()]
    return framed("System", told, sections, operation=False)


def _now() -> Section:
    everything = f"sum(rate({REQUESTS}[{WHOLE}]))"
    failed = f"sum(rate({REQUESTS}{selector(FAILED)}[{WHOLE}]))"
    return Section(
        "At a glance",
        [
            number(
                Told("Processes that answer", "Of those that are scraped, by job: API and worker. 0 is none.", Short),
                Query(f"sum by (job) (up{selector(JOBS)})", "{{job}}"),
                span=5,
            ),
            number(
                Told("Database", "1 when it answered at the last look, 0 when it did not.", Short),
                Query(or_zero("max(sluice_database_up)"), "answers"),
                span=3,
            ),
            number(
                Told("Requests", "A second, over all the time shown; health checks and scrapes among them.", RequestsPerSecond),
                Query(everything, "requests"),
                span=4,
            ),
            number(
                Told("Share failed", "5xx of all requests, over all the time shown. Red from 0.1 %.", PercentUnit),
                Query(f"({or_zero(failed)}) / {everything}", "failed"),
                span=4,
                alarming_from=0.001,
            ),
            number(
                Told("Alerts firing", "Now; the red marks say which, and since when.", Short),
                Query(or_zero(f"count({FIRING})"), "alerts"),
                span=3,
                alarming_from=1,
            ),
            number(
                Told("Version", "Processes by what runs in them: during an upgrade there are two versions.", Short),
                Query("count by (version, python) (sluice_build_info)", "{{version}} on Python {{python}}"),
                span=5,
            ),
        ],
    )


def _endpoints() -> Section:
    per_endpoint = per_second(REQUESTS, "operation", ENDPOINTS)
    return Section(
        "Endpoints",
        [
            lines(
                Told("Requests by endpoint", "All answers, errors among them.", RequestsPerSecond),
                Query(per_endpoint, "{{operation}}"),
            ),
            lines(
                Told(
                    "Errors by endpoint and status",
                    "4xx but for 404, and 5xx. `none`: no key, or no such route.",
                    RequestsPerSecond,
                ),
                Query(
                    or_zero(per_second(REQUESTS, "operation, outcome", 'outcome=~"4..|5.."', 'outcome!="404"'), "operation"),
                    "{{operation}} {{outcome}}",
                ),
            ),
            lines(
                Told("Mean latency by endpoint", "Of answers (200, 304, 404) alone: a refusal is quick. Exact.", Seconds),
                Query(mean(DURATION, "operation"), "{{operation}}"),
                Query(mean(REPORT, "report"), "report {{report}}"),
            ),
            lines(
                Told("p99 by endpoint", "Read off buckets 41 % apart; the objective is 2 s.", Seconds),
                Query(quantile(0.99, DURATION, "operation"), "{{operation}}"),
                Query(quantile(0.99, REPORT, "report"), "report {{report}}"),
            ),
            lines(
                Told("Share failed, by endpoint", "5xx of all requests of the endpoint.", PercentUnit),
                Query(share(per_second(REQUESTS, "operation", ENDPOINTS, FAILED), per_endpoint), "{{operation}}"),
            ),
            lines(
                Told("Left by the client", "Requests whose client went away before the answer.", RequestsPerSecond),
                Query(or_zero(per_second(REQUESTS, "operation", 'outcome="cancelled"'), "operation"), "{{operation}}"),
            ),
        ],
    )


def _objectives() -> Section:
    """As the alerts reckon them (alerts/slo.yml), by their recording rules."""
    spans = ("1h", "6h", "3d")
    told = "How fast the 30 days' budget is used up: at 1 it lasts just so long. {} Alerts ring from 14.4 in an hour, 6 in six."
    return Section(
        "Objectives",
        [
            lines(
                Told(f"Burn of the {name} budget", told.format(asked), Short),
                *(Query(f"sluice:{recorded}:ratio_rate{span} / {allowed}", f"over {span}") for span in spans),
            )
            for name, recorded, allowed, asked in (
                ("error", "requests_failed", 0.001, "Asked: 99.9 % of requests without a 5xx."),
                ("latency", "answers_slow", 0.01, "Asked: 99 % of answers within 2 s."),
            )
        ],
    )


def _pools() -> Section:
    return Section(
        "Pools of connections",
        [
            surroundings.pool_waits("by pool"),
            surroundings.pool_use("by pool"),
            lines(
                Told("Waiting now", "How many wait for a connection, at the scrape.", Short),
                Query("sum by (pool) (sluice_pool_waiting)", "{{pool}}"),
                span=8,
            ),
            lines(
                Told("Connections by state", "At the scrape. `missing` ones broke and are being replaced.", Short),
                Query("sum by (pool, state) (sluice_pool_connections)", "{{pool}} {{state}}"),
                span=8,
            ),
            surroundings.pool_faults("by pool", span=8),
        ],
    )


def _processes() -> Section:
    jobs = (JOBS,)
    return Section(
        "Processes",
        [
            surroundings.cpu(span=8),
            surroundings.memory(span=8),
            surroundings.loop_lag(span=8),
            lines(
                Told(
                    "I/O of each process",
                    "Read from and written to disks; files that the machine keeps in memory cost none.",
                    BytesPerSecondIEC,
                ),
                Query(per_second("process_io_bytes_total", "job, instance, direction", *jobs), f"{_PROCESS} {{{{direction}}}}"),
                span=8,
            ),
            lines(
                Told(
                    "Garbage collection",
                    "The share of time in which Python collects, and nothing else of the process runs.",
                    PercentUnit,
                ),
                Query(per_second("sluice_gc_pause_seconds_total", "job, instance", *jobs), _PROCESS),
                span=8,
            ),
            lines(
                Told(
                    "Open files and sockets",
                    "The share of those that the process may open. At 100 % nobody can connect.",
                    PercentUnit,
                ),
                Query(
                    f"sum by (job, instance) (process_open_fds{selector(JOBS)})"
                    f" / sum by (job, instance) (process_max_fds{selector(JOBS)} * sluice_processes{selector(JOBS)})",
                    _PROCESS,
                ),
                span=8,
            ),
            lines(
                Told(
                    "Collections by generation",
                    "The oldest, generation 2, looks through everything: it should be rare.",
                    RequestsPerSecond,
                ),
                Query(per_second("sluice_gc_collections_total", "job, generation", *jobs), "{{job}} generation {{generation}}"),
                span=12,
            ),
            lines(
                Told("Running for", "Since the process began: a line that falls to 0 is a restart.", Seconds),
                Query(f"time() - process_start_time_seconds{selector(JOBS)}", _PROCESS),
                span=12,
            ),
        ],
    )


def _machine() -> Section:
    cpu = by_host("rate(sluice_machine_cpu_seconds_total[$__rate_interval])")
    memory, disk = ("sluice_machine_memory_bytes", "sluice_machine_disk_bytes")
    io = by_host("rate(sluice_machine_disk_io_bytes_total[$__rate_interval])")
    return Section(
        "Machine",
        [
            lines(
                Told(
                    "CPU of the machine", "Shares of its time, of whatever runs on it. What is not shown is idle.", PercentUnit
                ),
                Query(
                    f"sum by (host, mode) ({by_host(_no_idle())}) / on (host) group_left sum by (host) ({cpu})",
                    "{{host}} {{mode}}",
                ),
                stacked=True,
            ),
            lines(
                Told("Memory of the machine", "The share in use. From 80 % an alert says so.", PercentUnit),
                Query("host:sluice_machine_memory:ratio", "{{host}}"),
            ),
            lines(
                Told(
                    "Disk of the data folder",
                    "The share in use. Alerts: above 90 %, or when it will be full within a day.",
                    PercentUnit,
                ),
                Query("1 - host:sluice_machine_disk_free:ratio", "{{host}}"),
                Query("vector(0.9)", "alert"),
            ),
            lines(
                Told("Disk I/O of the machine", "All its disks.", BytesPerSecondIEC),
                Query(f"max by (host, direction) ({io})", "{{host}} {{direction}}"),
            ),
            lines(
                Told("Free bytes", "Memory that is available, and room on the data folder's disk.", BytesIEC),
                Query(_state(memory, "available"), "{{host}} memory"),
                Query(_state(disk, "free"), "{{host}} disk"),
                span=24,
            ),
        ],
    )


def _no_idle() -> str:
    return 'rate(sluice_machine_cpu_seconds_total{mode!="idle"}[$__rate_interval])'


def _state(metric: str, state: str) -> str:
    """Every process of the machine says the same."""
    return seen(by_host(f'{metric}{{state="{state}"}}'), "host")
