"""What both paths live in: tenants and their channels, connections, the process."""

from grafana_foundation_sdk.models.units import BytesIEC, CountsPerSecond, Seconds, Short

from grafana.panels import Query, Section, Told, lines, number
from grafana.promql import JOB, OURS, increase, mean, per_second, quantile, selector


def sections() -> list[Section]:
    return [_tenants(), _machine()]


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
                Query(increase("sluice_tenant_transitions_total", "transition"), "{{transition}}"),
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
