"""What the dashboard "System" shows of the database: sessions and locks, statements, tables, servers."""

from grafana_foundation_sdk.models.units import BytesIEC, BytesPerSecondIEC, PercentUnit, Seconds, Short

from grafana.panels import Query, Section, Told, lines
from grafana.promql import or_zero, per_second, seen, seen_increase, seen_per_second, top

_D = "sluice_database"


def sections() -> list[Section]:
    return [_locks(), _statements(), _tables(), _servers()]


def _locks() -> Section:
    return Section(
        "Database: sessions and locks (of the primary, seen every few seconds)",
        [
            lines(
                Told(
                    "Sessions",
                    "Of the whole server, beside how many there may be. idle_in_transaction holds back vacuum, and perhaps "
                    "locks; hidden are those of logins that ours may not see.",
                    Short,
                ),
                Query(seen(f"{_D}_sessions", "state"), "{{state}}"),
                Query(seen(f"{_D}_connections_max", ""), "most"),
                span=8,
            ),
            lines(
                Told(
                    "Sessions that wait for a lock", "Above 0 for longer than a moment: somebody holds what others need.", Short
                ),
                Query(seen(f"{_D}_lock_waiting", ""), "waiting"),
                span=8,
            ),
            lines(
                Told("The longest wait for a lock", "Of those that wait now.", Seconds),
                Query(seen(f"{_D}_lock_wait_seconds", ""), "longest wait"),
                span=8,
            ),
            lines(
                Told(
                    "Locks by mode",
                    "Held or waited for. AccessExclusive shuts out even readers: it should be brief.",
                    Short,
                ),
                Query(seen(f"{_D}_locks", "mode"), "{{mode}}"),
                span=8,
            ),
            lines(
                Told("Deadlocks", "Each ended one transaction with an error; loading tries again. They should be rare.", Short),
                Query(or_zero(seen_increase(f"{_D}_deadlocks_total", "")), "deadlocks"),
                span=8,
            ),
            lines(
                Told(
                    "The longest transaction",
                    "How long the oldest is open. Vacuum clears nothing that it might still see.",
                    Seconds,
                ),
                Query(seen(f"{_D}_longest_transaction_seconds", ""), "oldest"),
                span=8,
            ),
        ],
    )


def _statements() -> Section:
    statements, seconds = (f"{_D}_{name}_total" for name in ("statements", "statement_seconds"))
    cached = seen_per_second(f"{_D}_blocks_total", "", 'source="cache"')
    read = seen_per_second(f"{_D}_blocks_total", "", 'source="disk"')
    return Section(
        "Database: statements",
        [
            lines(
                Told("Statements a second, by role", "sluice_api is the API's reads, sluice_ingest loading and views.", Short),
                Query(seen_per_second(statements, "role"), "{{role}}"),
                span=8,
            ),
            lines(
                Told(
                    "Mean time of a statement, by role", "In the database itself: the way there and back is not in it.", Seconds
                ),
                Query(f"{seen_per_second(seconds, 'role')} / {seen_per_second(statements, 'role')}", "{{role}}"),
                span=8,
            ),
            lines(
                Told(
                    "Slow statements",
                    "Kinds of statement that take over 0.5 s in the mean, by role, and those that run now for over a second.",
                    Short,
                ),
                Query(seen(f"{_D}_slow_statements", "role"), "{{role}} kinds"),
                Query(seen(f"{_D}_running_slow", ""), "running now"),
                span=8,
            ),
            lines(
                Told("Transactions", "By how they ended. Rollbacks are errors, retries, and probes that were given up.", Short),
                Query(seen_per_second(f"{_D}_transactions_total", "outcome"), "{{outcome}}"),
                span=8,
            ),
            lines(
                Told(
                    "Found in the cache",
                    "The share of blocks that PostgreSQL had in memory. What it lacked the machine may still have had.",
                    PercentUnit,
                ),
                Query(f"{cached} / ({cached} + {read})", "cache"),
                span=8,
            ),
            lines(
                Told("Spilled to disk", "What sorts and joins wrote there, for lack of work_mem.", BytesPerSecondIEC),
                Query(seen_per_second(f"{_D}_temporary_bytes_total", ""), "spilled"),
                span=8,
            ),
        ],
    )


def _tables() -> Section:
    dead = seen(f"{_D}_rows", "table", 'state="dead"')
    live = seen(f"{_D}_rows", "table", 'state="live"')
    return Section(
        "Database: tables",
        [
            lines(
                Told("Size on disk", "The whole database, and its ten largest tables with indexes and partitions.", BytesIEC),
                Query(seen(f"{_D}_bytes", ""), "all"),
                Query(top(seen(f"{_D}_table_bytes", "table")), "{{table}}"),
            ),
            lines(
                Told(
                    "Dead rows",
                    "Old versions that no vacuum has cleared, of the ten tables that have most, by PostgreSQL's estimate.",
                    Short,
                ),
                Query(top(dead), "{{table}}"),
            ),
            lines(
                Told(
                    "Share of dead rows",
                    "Bloat: of tables with over 1000 rows. Autovacuum begins at 20 % by default.",
                    PercentUnit,
                ),
                Query(or_zero(top(f"{dead} / ({dead} + {live} > 1000)"), "table"), "{{table}}"),
            ),
            lines(
                Told(
                    "Transaction age", "Since the oldest row that is not frozen. From 200 million on, vacuum is forced.", Short
                ),
                Query(seen(f"{_D}_transaction_age", ""), "age"),
            ),
        ],
    )


def _servers() -> Section:
    return Section(
        "Database: servers (with SLUICE_REPLICA_URL or several hosts)",
        [
            lines(
                Told("What each server is", "1 for its state: primary, replica, lagging (not read), stale, away.", Short),
                Query(or_zero(seen(f"{_D}_servers", "server, state"), "server"), "{{server}} {{state}}"),
            ),
            lines(
                Told("Replica lag", "How far behind. Beyond SLUICE_REPLICA_LAG_MAX_S a replica is not read.", Seconds),
                Query(or_zero(seen(f"{_D}_replica_lag_seconds", "server"), "server"), "{{server}}"),
            ),
            lines(
                Told("Reads by server", "Where the reads of each pool went.", Short),
                Query(or_zero(per_second(f"{_D}_reads_total", "server, pool"), "server"), "{{server}} {{pool}}"),
            ),
            lines(
                Told("Promotions", "Another server was found to be the primary.", Short),
                Query(or_zero(seen_increase(f"{_D}_promotions_total", "")), "promotions"),
            ),
        ],
    )
