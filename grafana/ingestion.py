"""The dashboard "Ingestion": what comes in from which facility, how long each step takes, and what holds it up."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.units import BytesIEC, CountsPerMinute, PercentUnit, Seconds, Short

from grafana.frame import framed
from grafana.panels import Query, Section, Told, lines, note, number
from grafana.promql import WHOLE, increase, mean, or_zero, per_minute, quantile, seen, top

FILES = "sluice_ingest_files_total"
CLAIMS = "sluice_ingest_claims_total"
POLLS = "sluice_facility_polls_total"
STAGE = "sluice_ingest_stage_duration_seconds"
FACILITY = 'facility=~"$facility"'
ODD = 'outcome=~"quarantined|parked|failed"'
STEPS = 'stage=~"list|download|load|acknowledge"'
PARTS = 'stage=~"parse|settle|identify|derive|claims|resources|finish"'

READ_ME = """\
**From listing to acknowledgement.** A poll lists what the post office has for a facility, downloads each file, loads it
in one transaction, and only then acknowledges it: what is not acknowledged comes again, and loading twice does no harm.

**Look at facilities first.** `failing`: the last poll did. `overdue`: due for two intervals and not polled, so either no
worker runs or all are busy. `stopped` polls wait for a person (`sluice facility resume`).

**Throttled is not broken.** Ingestion yields to the API, the replicas, the CPU and the disk; the panel says to which, and
how much. **A line begins at a facility's second scrape:** its very first files are in `sluice ingest status`, not here.
"""


def dashboard() -> Dashboard:
    told = "Files and claims that come in, by facility; stages, errors, delays and brakes."
    return framed("Ingestion", told, [_now(), _flow(), _stages(), _polls(), _brakes()], operation=False, facility=True)


def _now() -> Section:
    return Section(
        "At a glance",
        [
            note("How to read this", "The way of a file, and where to look first.", READ_ME, height=6),
            number(
                Told("Facilities by state", "ok, failing (the last poll did), overdue (due for two intervals), paused.", Short),
                Query(seen("sluice_facilities", "state"), "{{state}}"),
                span=8,
            ),
            number(
                Told("Files", "By what became of them, in all the time shown.", Short),
                Query(increase(FILES, "outcome", FACILITY, window=WHOLE), "{{outcome}}"),
                span=8,
            ),
            number(
                Told("Claims", "That are in, in all the time shown; remitted ones among them.", Short),
                Query(increase(CLAIMS, "", FACILITY, window=WHOLE), "claims"),
                span=4,
            ),
            number(
                Told("Polled now", "Facilities, by all workers.", Short),
                Query("sum(sluice_facilities_polling)", "polled"),
                span=4,
            ),
        ],
    )


def _flow() -> Section:
    return Section(
        "What comes in",
        [
            lines(
                Told(
                    "Files a minute, by facility", "The twenty busiest; the first 200 facilities have a name.", CountsPerMinute
                ),
                Query(top(per_minute(FILES, "facility", FACILITY), 20), "{{facility}}"),
            ),
            lines(
                Told("Claims a minute, by facility", "The twenty busiest. Remitted claims count each time.", CountsPerMinute),
                Query(top(per_minute(CLAIMS, "facility", FACILITY), 20), "{{facility}}"),
            ),
            lines(
                Told(
                    "Files a minute, by outcome",
                    "loaded; test, duplicate and ignored need nothing; quarantined, parked and failed do.",
                    CountsPerMinute,
                ),
                Query(per_minute(FILES, "outcome", FACILITY), "{{outcome}}"),
            ),
            lines(
                Told(
                    "Files that need somebody, by facility",
                    "quarantined: unreadable; parked: tried too often; failed: tried again. See `sluice ingest errors`.",
                    CountsPerMinute,
                ),
                Query(or_zero(per_minute(FILES, "facility, outcome", FACILITY, ODD), "facility"), "{{facility}} {{outcome}}"),
            ),
        ],
    )


def _stages() -> Section:
    return Section(
        "Where the time goes",
        [
            lines(
                Told("Steps of a file", "Means that add up: its share of the listing aside, that is a file's way.", Seconds),
                Query(mean(STAGE, "stage", STEPS), "{{stage}}"),
                span=8,
                stacked=True,
            ),
            lines(
                Told("Parts of loading", "Means of what the step `load` consists of.", Seconds),
                Query(mean(STAGE, "stage", PARTS), "{{stage}}"),
                span=8,
                stacked=True,
            ),
            lines(
                Told("p95 of steps", "Read off buckets that double: only a factor of two is evidence.", Seconds),
                Query(quantile(0.95, STAGE, "stage", STEPS), "{{stage}}"),
                span=8,
            ),
        ],
    )


def _polls() -> Section:
    bad = 'outcome!="ok"'
    return Section(
        "Facilities and polls",
        [
            lines(
                Told(
                    "Facilities by state over time",
                    "Each is in one state. overdue is ingestion's lag: nobody came to poll it.",
                    Short,
                ),
                Query(seen("sluice_facilities", "state"), "{{state}}"),
            ),
            lines(
                Told("Share that lags", "Facilities that are failing or overdue, of those that are not paused.", PercentUnit),
                Query(
                    'sum(max by (state) (sluice_facilities{state=~"failing|overdue"}))'
                    ' / (sum(max by (state) (sluice_facilities{state!="paused"})) > 0) or vector(0)',
                    "lags",
                ),
            ),
            lines(
                Told(
                    "Polls a minute, by outcome",
                    "ok; partial: some files wait; failed, timeout, lost: it is tried again.",
                    CountsPerMinute,
                ),
                Query(per_minute(POLLS, "outcome", FACILITY), "{{outcome}}"),
            ),
            lines(
                Told("Polls that went wrong, by facility", "In each window, the twenty worst.", Short),
                Query(
                    or_zero(top(increase(POLLS, "facility, outcome", FACILITY, bad), 20), "facility"),
                    "{{facility}} {{outcome}}",
                ),
            ),
        ],
    )


def _brakes() -> Section:
    return Section(
        "Brakes and queues",
        [
            lines(
                Told(
                    "Throttle by reason", "0 is free, 1 as slow as may be: for the API, replicas, CPU, the disk.", PercentUnit
                ),
                Query(seen("sluice_ingest_throttle", "reason"), "{{reason}}"),
                span=8,
            ),
            lines(
                Told(
                    "Jobs",
                    "In the queue of all workers, by kind and state. Queued ones that only grow: too few workers.",
                    Short,
                ),
                Query(or_zero(seen("sluice_jobs", "entrypoint, status"), "entrypoint"), "{{entrypoint}} {{status}}"),
                span=8,
            ),
            lines(
                Told("Held in memory", "Downloaded files that are not in yet. At SLUICE_INGEST_MB downloads wait.", BytesIEC),
                Query("sum by (instance) (sluice_ingest_held_bytes)", "{{instance}}"),
                span=8,
            ),
        ],
    )
