"""docs/metrics.md, made of the catalogue: the page cannot tell of a metric that is not there, nor leave one out."""

from collections.abc import Iterable

from metrics.accumulators import Family
from metrics.catalog import OF_THE_DATABASE, Metrics, WorkerMetrics

HEAD = """\
# Metrics

Made by `python -m docs.build` of metrics/catalog.py; do not edit it. `sluice serve` tells them at `/metrics` (open on
a loopback address, else for a key of scope `operate`), a worker at 127.0.0.1:9464. Several processes of `--workers N`
are one scrape: counts are added up, of gauges that all of them would tell alike the largest is taken. Units are
seconds and bytes. No label is a patient's, and each has few values: a hundred warm tenants and two hundred facilities
have names, all others are `other`.
"""
DATABASE = """\
## The database, told by both

The primary is looked at every ten seconds, its tables every minute, by a connection of its own (`sluice collector`):
never at a scrape, so a database that is slow makes no scrape slow. One process of a server looks, and every worker;
they tell the same, so take `max`.

* **A database that does not answer** is `sluice_database_up` 0, and all other series of this table are absent until
  it does. The same holds when looks have ceased to end for 35 seconds. While a table is locked for an alteration,
  sizes and rows are those of before, for three and a half minutes at most.
* **Rights.** The login of `SLUICE_DATABASE_URL` looks. Without `pg_read_all_stats` sessions of other logins are
  `hidden`: neither their transactions nor their slow statements are told. The migration gives it where the login may
  give it to itself; else a superuser must.
* **pg_stat_statements** is made by the migration where the login may (a superuser's `CREATE EXTENSION
  pg_stat_statements` else), and has to stand in the server's `shared_preload_libraries`; the embedded PostgreSQL has
  it. Without it `statements_total`, `statement_seconds_total` and `slow_statements` are absent. Roles are
  `sluice_api`, `sluice_ingest`, `sluice_report`, and `other`: logins, migrations, the looking itself. Their counts
  begin with the process that looks, all other counters are PostgreSQL's own.
* What looking costs: 0.8 ms of the database's CPU each time, 3 ms more with the tables, on the demo's 174 MB; 3 ms
  more when pg_stat_statements is full (5000 kinds of statement).
"""


def page() -> str:
    api, worker = Metrics(), WorkerMetrics()
    for metrics in (api, worker):
        metrics.add_process()
    both = set(api.families) & set(worker.families)
    of_the_database = {f"sluice_database_{name}" for name, *_ in OF_THE_DATABASE}
    parts = [
        HEAD,
        "## The API\n",
        _table(family for name, family in api.families.items() if name not in both),
        "## A worker\n",
        _table(family for name, family in worker.families.items() if name not in both),
        DATABASE,
        _table(family for name, family in api.families.items() if name in of_the_database),
        "## Both: pools, servers, process, machine\n",
        _table(family for name, family in api.families.items() if name in both - of_the_database),
    ]
    return "\n".join(parts)


def _table(families: Iterable[Family]) -> str:
    rows = [f"| `{family.name}{_labels(family)}` | {family.kind} | {family.help} |" for family in families]
    return "\n".join(["| metric | kind | |", "|---|---|---|", *rows, ""])


def _labels(family: Family) -> str:
    return f"{{{','.join(family.labels)}}}" if family.labels else ""
