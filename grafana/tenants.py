"""The dashboard "Tenants": who is warm, how that comes and goes, and what warm tenants do with their channels."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.units import CountsPerSecond, PercentUnit, RequestsPerSecond, Seconds, Short

from grafana.frame import framed
from grafana.panels import Query, Section, Told, lines, note, number
from grafana.promql import (
    OURS,
    REFUSED,
    REQUESTS,
    STAGE,
    WHOLE,
    increase,
    mean,
    or_zero,
    per_second,
    quantile,
    selector,
    share,
    top,
)
from grafana.surroundings import messages_by_tenant

TRANSITIONS = "sluice_tenant_transitions_total"
MESSAGES = "sluice_channel_messages_total"
ENTITIES = 'path=~"channel|direct"'
DEPTH = f"sluice_channel_depth{selector(OURS)}"

READ_ME = """\
**A tenant is warm** from a `POST /warm-up` until its cooldown ends (by default 600 s after the last one): only then its
requests go through channels. *Transitions*: `warm_up` made the channels, `extend` put the cooldown off, `cooldown` is the
end that was due, `evict` one that was asked for.

**Depth is looked at once a scrape.** A queue that fills and empties in between is not in it: *Waiting in the queue* has
every request.

**Refusals**: `tenant-busy` (429) is one tenant's full queue and nobody else's trouble, `server-busy` (503) is everybody's,
`expired` (504) waited longer than SLUICE_DEADLINE_S. A hundred tenants have a name of their own, the rest are `other`.
"""


def dashboard() -> Dashboard:
    told = "Who is warm, how tenants warm up and cool down, and what they do with their channels."
    return framed("Tenants", told, [_now(), _warmth(), _throughput(), _refusals()])


def _now() -> Section:
    return Section(
        "Warm now",
        [
            note("How to read this", "What warm means, and what is refused.", READ_ME, height=6),
            number(
                Told(
                    "Tenants by state",
                    "At the last scrape. Each node has an actor for each warm tenant: the most of any.",
                    Short,
                ),
                Query("max by (state) (sluice_tenants)", "{{state}}"),
                span=8,
            ),
            number(
                Told("Transitions", "In all the time shown.", Short),
                Query(increase(TRANSITIONS, "transition", window=WHOLE), "{{transition}}"),
                span=8,
            ),
            number(
                Told("Tenant mismatches", "Batches thrown away because a row was nobody's who had asked. Must be 0.", Short),
                Query("sum(sluice_tenant_mismatch_total)", "mismatches"),
                span=4,
                alarming_from=1,
            ),
            number(
                Told("Dispatcher restarts", "It crashed and was started again; what it held was refused. Must be 0.", Short),
                Query("sum(sluice_dispatcher_restarts_total)", "restarts"),
                span=4,
                alarming_from=1,
            ),
        ],
    )


def _warmth() -> Section:
    return Section(
        "Warm-ups and cooldowns",
        [
            lines(
                Told("Warm, warming and cooling", "At each scrape; cold tenants have no actor, and are not counted.", Short),
                Query("max by (state) (sluice_tenants)", "{{state}}"),
            ),
            lines(
                Told(
                    "Transitions over time", "Warm-ups, extensions, cooldowns that came due and those asked for (evict).", Short
                ),
                Query(increase(TRANSITIONS, "transition"), "{{transition}}"),
            ),
        ],
    )


def _throughput() -> Section:
    warm = per_second(REQUESTS, "operation", OURS, 'path="channel"')
    whole = per_second(REQUESTS, "operation", OURS, ENTITIES)
    waits = (OURS, 'path="channel"', 'stage="queue"')
    return Section(
        "Throughput and depth",
        [
            messages_by_tenant(),
            lines(
                Told("Throughput by operation", "Requests put into channels, of all tenants.", CountsPerSecond),
                Query(per_second(MESSAGES, "operation", OURS), "{{operation}}"),
            ),
            lines(
                Told("Depth by tenant", "Waiting in channels at the scrape, the ten deepest.", Short),
                Query(top(f"sum by (tenant) ({DEPTH})"), "{{tenant}}"),
            ),
            lines(
                Told("Depth by operation", "Waiting in channels at the scrape, of all tenants.", Short),
                Query(f"sum by (operation) ({DEPTH})", "{{operation}}"),
            ),
            lines(
                Told(
                    "Throughput by tenant and operation", "Requests put into channels, the ten busiest pairs.", CountsPerSecond
                ),
                Query(top(per_second(MESSAGES, "tenant, operation", OURS)), "{{tenant}} {{operation}}"),
            ),
            lines(
                Told("Depth by tenant and operation", "Each is a queue of its own: the ten deepest, at the scrape.", Short),
                Query(top(f"sum by (tenant, operation) ({DEPTH})"), "{{tenant}} {{operation}}"),
            ),
            lines(
                Told("Waiting in the queue", "Mean and p99 of every answered request, from its ask to its batch.", Seconds),
                Query(mean(STAGE, "operation", *waits), "{{operation}} mean"),
                Query(quantile(0.99, STAGE, "operation", *waits), "{{operation}} p99"),
            ),
            lines(
                Told(
                    "Share through channels, by operation",
                    "Of all entity requests. The rest came from cold tenants, or was sent direct for comparison.",
                    PercentUnit,
                ),
                Query(share(warm, whole), "{{operation}}"),
            ),
            lines(
                Told(
                    "Why requests went direct",
                    "cold: the tenant has no channels now; control: drawn for comparison; forced: X-Sluice-Force asked for it.",
                    RequestsPerSecond,
                ),
                Query(per_second(REQUESTS, "reason", OURS, 'path="direct"', 'outcome=~"200|304"'), "{{reason}}"),
                span=24,
            ),
        ],
    )


def _refusals() -> Section:
    refused = per_second(REQUESTS, "operation", OURS, ENTITIES, REFUSED)
    return Section(
        "Refusals",
        [
            lines(
                Told("Refusals by reason", "tenant-busy, server-busy and expired, by status.", RequestsPerSecond),
                Query(or_zero(per_second(REQUESTS, "reason, outcome", OURS, REFUSED), "reason"), "{{outcome}} {{reason}}"),
            ),
            lines(
                Told("Share refused, by operation", "Of all requests of the operation, by either path.", PercentUnit),
                Query(share(refused, per_second(REQUESTS, "operation", OURS, ENTITIES)), "{{operation}}"),
            ),
        ],
    )
