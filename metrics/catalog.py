"""Every metric of Sluice, in one place: names, help, labels. No patient data; every label has few values."""

import itertools
from collections.abc import Callable
from pathlib import Path

from base.config import VIEWS
from base.operations import OPERATIONS
from metrics.accumulators import LATENCY_BOUNDS, SIZE_BOUNDS, STAGE_BOUNDS, Distribution, Family, Kind, Labels, Merge, Snapshot

STAGES = ("queue", "pool", "query", "encode")
_COMPARED = (
    ("channel", "treatment", "database"),
    ("channel", "treatment", "shared"),
    ("direct", "control", "database"),
    ("direct", "none", "database"),
)
_ANSWERS = (
    ("channel", "200", ""),
    ("direct", "200", "cold"),
    ("direct", "200", "control"),
    ("channel", "404", "not-found"),
    ("direct", "404", "not-found"),
)
FILE_OUTCOMES = ("loaded", "test", "duplicate", "ignored", "quarantined", "failed", "parked")
POLL_OUTCOMES = ("ok", "partial", "failed", "timeout", "stopped")
OF_THE_DATABASE: tuple[tuple[str, Kind, str, Labels], ...] = (
    ("up", "gauge", "Whether it answered when it was looked at last", ()),
    ("deadlocks_total", "counter", "Deadlocks", ()),
    ("locks", "gauge", "Locks that are held or waited for", ("mode",)),
    ("lock_waiting", "gauge", "Sessions that wait for a lock; who waits for an advisory one waits for its turn alone", ()),
    ("lock_wait_seconds", "gauge", "How long the one that waits longest for a lock does", ()),
    (
        "sessions",
        "gauge",
        "Clients of the whole server: active, idle, idle_in_transaction, hidden (of a login that may not be seen)",
        ("state",),
    ),
    ("connections_max", "gauge", "How many sessions clients may have", ()),
    ("longest_transaction_seconds", "gauge", "How long the oldest transaction is open", ()),
    ("running_slow", "gauge", "Statements that run for over a second", ()),
    ("statements_total", "counter", "Statements that ended while somebody looked, from pg_stat_statements", ("role",)),
    ("statement_seconds_total", "counter", "Seconds that they ran, from pg_stat_statements", ("role",)),
    ("slow_statements", "gauge", "Kinds of statement that take over 0.5 s in the mean, from pg_stat_statements", ("role",)),
    ("transactions_total", "counter", "Transactions, by how they ended: committed, rolled_back", ("outcome",)),
    ("blocks_total", "counter", "Blocks of 8 KiB, by where they were found: cache, disk", ("source",)),
    ("temporary_bytes_total", "counter", "What sorts and joins wrote to disk", ()),
    ("bytes", "gauge", "The whole database on disk", ()),
    ("table_bytes", "gauge", "A table with its partitions, indexes and large values", ("table",)),
    ("rows", "gauge", "Rows of a table by estimate: live, and dead ones that no vacuum has cleared yet", ("table", "state")),
    ("transaction_age", "gauge", "Transactions since the oldest row that is not frozen; vacuum is forced at 200 million", ()),
)


class Catalogue:
    """One process's metrics. Nothing is global: each app makes its own."""

    def __init__(self) -> None:
        self.families: dict[str, Family] = {}
        self.pool_connections = self._add("sluice_pool_connections", "gauge", "Connections to PostgreSQL", ("pool", "state"))
        self.pool_waiting = self._add("sluice_pool_waiting", "gauge", "Who waits for a connection now", ("pool",))
        self.pool_wait = self._seconds("sluice_pool_wait_seconds", "Waiting for a connection", ("pool",))
        self.pool_busy = self._add(
            "sluice_pool_busy_seconds_total", "counter", "Seconds for which connections were lent", ("pool",)
        )
        self.pool_timeouts = self._add(
            "sluice_pool_timeouts_total", "counter", "Who waited for a connection in vain", ("pool",)
        )
        self.pool_held_long = self._add(
            "sluice_pool_held_long_total", "counter", "Connections that somebody held for too long: the log says who", ("pool",)
        )
        self.database_servers = self._add(
            "sluice_database_servers",
            "gauge",
            "What each of several servers is: primary, replica, lagging (not read), stale (a former primary), away",
            ("server", "state"),
            merge="max",
        )
        self.database_replica_lag = self._add(
            "sluice_database_replica_lag_seconds", "gauge", "How far behind a replica is", ("server",), merge="max"
        )
        self.database_reads = self._add(
            "sluice_database_reads_total", "counter", "Reads, by the server of several that they went to", ("server", "pool")
        )
        self.database_promotions = self._add(
            "sluice_database_promotions_total", "counter", "Times that another server was found to be the primary", merge="max"
        )
        self._add_database()
        self.loop_lag = self._seconds(
            "sluice_event_loop_lag_seconds", "How much later than asked the event loop ran a timer", ()
        )
        self.loop_lag.child()

    def _add_database(self) -> None:
        """What the primary says of itself, looked at now and then (storage/collectors.py), not at each scrape.

        Counters are PostgreSQL's own, and begin anew when its statistics do; those of statements begin with the process that
        looks. Whoever looks says the same, hence `max`. Nothing is known of a database that is away, but that.
        """
        for name, kind, help_text, labels in OF_THE_DATABASE:
            self._add(f"sluice_database_{name}", kind, help_text, labels, merge="max")

    def _seconds(self, name: str, help_text: str, labels: Labels) -> Family:
        return self._add(name, "histogram", help_text, labels, bounds=LATENCY_BOUNDS)

    def _add(
        self,
        name: str,
        kind: Kind,
        help_text: str,
        labels: Labels = (),
        *,
        merge: Merge = "sum",
        bounds: tuple[float, ...] = (),
    ) -> Family:
        family = self.families[name] = Family(name, kind, help_text, labels, merge, bounds)
        return family

    def add_process(self, data_dir: Path | None = None) -> None:
        """The standard `process_*` of this process, what Python and the machine say, and which version runs.

        `data_dir`: the folder whose disk is told of.
        """
        from metrics.process import readings

        for name, (kind, merge, help_text, labels, read) in readings(data_dir).items():
            self._add(name, kind, help_text, labels, merge=merge).read = read

    def snapshot(self) -> Snapshot:
        """What can be summed with other processes' snapshots, and sent as JSON."""
        return {name: family.snapshot() for name, family in self.families.items()}


class Metrics(Catalogue):
    """The API's."""

    def __init__(self) -> None:
        super().__init__()
        self.request_duration = self._seconds(
            "sluice_request_duration_seconds",
            "From the middleware's first line to the finished answer; answers 200, 304 and 404 alone",
            ("operation", "path", "arm", "source"),
        )
        self.requests = self._add("sluice_requests_total", "counter", "Answers", ("operation", "path", "outcome", "reason"))
        self.stage_duration = self._seconds(
            "sluice_stage_duration_seconds",
            "Parts of a request: waiting in its queue, waiting for a connection, its statement, making the answer",
            ("operation", "path", "stage"),
        )
        self.batch_size = self._add(
            "sluice_batch_size", "histogram", "Requests answered by one statement", ("operation",), bounds=SIZE_BOUNDS
        )
        self.channel_messages = self._add(
            "sluice_channel_messages_total", "counter", "Requests put into a channel", ("tenant", "operation")
        )
        self.channel_depth = self._add(
            "sluice_channel_depth", "gauge", "Requests waiting in a channel", ("tenant", "operation")
        )
        self.tenant_transitions = self._add(
            "sluice_tenant_transitions_total", "counter", "Warm-ups and what became of them", ("transition",)
        )
        self.tenants = self._add("sluice_tenants", "gauge", "Tenants with an actor, by its state", ("state",), merge="max")
        self.report_duration = self._seconds(
            "sluice_report_duration_seconds", "From the middleware's first line to a report's finished answer", ("report",)
        )
        self.tenant_mismatch = self._add(
            "sluice_tenant_mismatch_total", "counter", "Batches thrown away because a row was nobody's who had asked"
        )
        self.dispatcher_restarts = self._add(
            "sluice_dispatcher_restarts_total", "counter", "Times that the dispatcher crashed and was started again"
        )

        self._answers: dict[Labels, tuple[Distribution, tuple[Distribution, ...]]] = {}
        self._begin_at_zero()

    def answered(self, operation: str, path: str, arm: str, source: str) -> tuple[Distribution, tuple[Distribution, ...]]:
        """The slots of one answer, found by one look: of the whole, and of its stages in the order of STAGES."""
        labels = (operation, path, arm, source)
        slots = self._answers.get(labels)
        if slots is None:
            stages = tuple(self.stage_duration.child(operation, path, stage) for stage in STAGES)
            slots = self._answers[labels] = (self.request_duration.child(*labels), stages)
        return slots

    def _begin_at_zero(self) -> None:
        """A series that is born at its first event has no increase for it: of a rare one most would be lost."""
        for family in (self.tenant_mismatch, self.dispatcher_restarts):
            family.child()
        for operation in OPERATIONS:
            self.batch_size.child(operation.name)
            for path, arm, source in _COMPARED:
                self.request_duration.child(operation.name, path, arm, source)
            for path, stage in itertools.product(("channel", "direct"), STAGES):
                self.stage_duration.child(operation.name, path, stage)
            for path, outcome, reason in _ANSWERS:
                self.requests.child(operation.name, path, outcome, reason)


class WorkerMetrics(Catalogue):
    """The ingestion worker's."""

    def __init__(self) -> None:
        super().__init__()
        self.files = self._add("sluice_ingest_files_total", "counter", "Files, by what became of them", ("facility", "outcome"))
        self.claims = self._add("sluice_ingest_claims_total", "counter", "Claims that are in", ("facility",))
        self.ingest_stage = self._add(
            "sluice_ingest_stage_duration_seconds",
            "histogram",
            "Parts of taking a file: its listing, download, loading and what that consists of, acknowledgement",
            ("stage",),
            bounds=STAGE_BOUNDS,
        )
        self.polls = self._add("sluice_facility_polls_total", "counter", "Polls, by how they went", ("facility", "outcome"))
        self.polling = self._add("sluice_facilities_polling", "gauge", "Facilities that are polled now")
        self.throttle = self._add(
            "sluice_ingest_throttle", "gauge", "How hard ingestion is braked, from 0 to 1", ("reason",), merge="max"
        )
        self.held_bytes = self._add("sluice_ingest_held_bytes", "gauge", "Downloaded files that are not in yet")
        self.facilities = self._add(
            "sluice_facilities",
            "gauge",
            "Facilities: ok, failing (the last poll did), overdue (no poll began for two intervals), paused",
            ("state",),
            merge="max",
        )
        self.jobs = self._add(
            "sluice_jobs", "gauge", "Jobs in the queue, of all workers", ("entrypoint", "status"), merge="max"
        )
        self.labels = FirstComers(begin=self._begin_facility)
        self.view_refresh = self._add(
            "sluice_view_refresh_duration_seconds",
            "histogram",
            "Refreshes of a report view: as a whole (refreshed), its changes alone (applied), failed",
            ("view", "outcome"),
            bounds=STAGE_BOUNDS,
        )
        self.view_skipped = self._add(
            "sluice_view_skipped_total",
            "counter",
            "Refreshes that were due and not needed: nothing changed (unchanged), too little (few), another worker's (busy)",
            ("view", "reason"),
        )
        self.view_age = self._add(
            "sluice_view_age_seconds", "gauge", "How long ago nothing was missing in a report view", ("view",), merge="max"
        )
        self.view_freshness = self._add(
            "sluice_view_freshness_seconds",
            "gauge",
            "How old a report view may be: the freshness that is asked, else its interval",
            ("view",),
            merge="max",
        )
        self.view_rows = self._add("sluice_view_rows", "gauge", "Rows of a report view", ("view",), merge="max")
        for view in VIEWS:
            for outcome in ("refreshed", "applied", "failed"):
                self.view_refresh.child(view, outcome)
            for reason in ("unchanged", "few", "busy"):
                self.view_skipped.child(view, reason)

    def _begin_facility(self, label: str) -> None:
        """Failures are rare: of a series that is born by one no increase would ever be seen."""
        self.claims.child(label)
        for outcome in FILE_OUTCOMES:
            self.files.child(label, outcome)
        for outcome in POLL_OUTCOMES:
            self.polls.child(label, outcome)


class FirstComers:
    """Names that metrics carry: the first 200; all others are `other`, so that series stay few.

    `begin` is called once with each name that they are to carry, `other` among them.
    """

    OTHER = "other"

    def __init__(self, most: int = 200, *, begin: Callable[[str], None] = lambda _name: None) -> None:
        self._most = most
        self._begin = begin
        self._known: set[str] = set()

    def label(self, name: str) -> str:
        if name in self._known:
            return name
        carried = name if len(self._known - {self.OTHER}) < self._most else self.OTHER
        if carried not in self._known:
            self._known.add(carried)
            self._begin(carried)
        return carried
