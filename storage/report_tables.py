"""The reports that there are, each a row of data: what it reads, its columns, and what it can be filtered and sorted by.

Columns and money are those of the views in migration 0007.
"""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What stands in a column: decides how it is written."""

    TEXT = "text"
    NUMBER = "number"
    TIME = "time"
    DATE = "date"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Sort:
    """An expression that an index of migration 0007 is in the order of, and its SQL type."""

    expression: str
    type: str


@dataclass(frozen=True, slots=True)
class Report:
    """A report that is read page by page.

    `name` is the route's and ops.report_view's. `key`: the columns that no two rows share, with their SQL types; every sort
    goes on by them, and one that is None goes by them alone. `day` is what `from` and `to` go by. `ages`: its rows change with
    the day.
    """

    name: str
    relation: str
    columns: dict[str, Kind]
    key: dict[str, str]
    day: Sort
    filters: dict[str, str]
    """Columns by the parameter that names them."""
    statuses: tuple[str, ...]
    """What the parameter `status` can be."""
    sorts: dict[str, Sort | None]
    default_sort: str
    ages: bool = False


@dataclass(frozen=True, slots=True)
class Analysis:
    """A report that is computed when it is asked for, as a whole. `statement` stands in sql/reports.sql.

    It takes $1 tenant, $2 from, $3 before (instants), $4 payer, $5 facility, $6 by, each null where nothing was said. `view`:
    the report view that it reads, if it reads one; `is_live`: it reads tables, too, so it is of the moment of the question.
    """

    name: str
    statement: str
    columns: dict[str, Kind]
    parameters: tuple[str, ...]
    view: str = ""
    is_live: bool = True
    ages: bool = False


def _columns(text: str) -> dict[str, Kind]:
    """`claim_id submitted_at:time net:number`: text where nothing is said."""
    pairs = (word.partition(":") for word in text.split())
    return {name: Kind(kind or "text") for name, _, kind in pairs}


_CLAIM = {"provider_id": "text", "claim_id": "text"}
_BEGAN = Sort("coalesce(encounter_start, submitted_at)", "timestamptz")
_SETTLED = Sort("date_settlement", "timestamptz")
_OF_CLAIM = {"payer": "payer_id", "facility": "facility_id"}

REPORTS = (
    Report(
        "balance-amount",
        "report.balance_amount",
        _columns(
            "claim_id provider_id facility_id payer_id encounter_start:time submitted_at:time initial_net:number"
            " total_payment:number total_taken_back:number total_denied:number pending_amount:number overpaid_amount:number"
            " remittance_count:number first_remittance_date:time last_remittance_date:time resubmission_count:number"
            " last_resubmission_date:time current_status last_status_date:time aging_days:number"
        ),
        key=_CLAIM,
        day=_BEGAN,
        filters={**_OF_CLAIM, "status": "current_status"},
        statuses=("PAID", "PARTIALLY_PAID", "REJECTED", "TAKEN_BACK", "PENDING", "CLOSED"),
        sorts={"encounter_start": _BEGAN, "pending_amount": Sort("pending_amount", "numeric"), "claim_id": None},
        default_sort="-encounter_start",
        ages=True,
    ),
    Report(
        "remittance-advice",
        "report.remittance_advice",
        _columns(
            "claim_id provider_id facility_id payer_id id_payer date_settlement:time payment_reference activity_count:number"
            " total_remitted:number total_payment:number denied_count:number denied_amount:number remittance_count:number"
            " first_settlement_date:time all_denial_codes collection_rate:number payment_status"
        ),
        key=_CLAIM,
        day=_SETTLED,
        filters={**_OF_CLAIM, "status": "payment_status"},
        statuses=("Has Denials", "Fully Paid", "Partially Paid", "No Payment"),
        sorts={"date_settlement": _SETTLED, "denied_amount": Sort("denied_amount", "numeric"), "claim_id": None},
        default_sort="-date_settlement",
    ),
    Report(
        "claims-by-payer",
        "report.claims_by_payer",
        _columns(
            "month:date payer_id facility_id count_claims:number remitted_count:number fully_paid_count:number"
            " partially_paid_count:number fully_rejected_count:number taken_back_count:number"
            " pending_remittance_count:number self_pay_count:number claim_amount:number remitted_amount:number"
            " paid_amount:number rejected_amount:number taken_back_amount:number pending_remittance_amount:number"
            " self_pay_amount:number rejected_percentage_on_initial:number rejected_percentage_on_remittance:number"
            " collection_rate:number"
        ),
        key={"month": "date", "payer_id": "text", "facility_id": "text"},
        day=Sort("month", "date"),
        filters=_OF_CLAIM,
        statuses=(),
        sorts={
            "month": None,
            **{
                name: Sort(name, "numeric")
                for name in ("claim_amount", "paid_amount", "rejected_amount", "pending_remittance_amount")
            },
        },
        default_sort="-month",
    ),
)

_DAYS = ("from", "to")
_WHERE = ("payer", "facility")
_BUCKETS = ("0_30", "31_60", "61_90", "91_180", "181_365", "over_365")

ANALYSES = (
    Analysis(
        "control-totals",
        "control_totals",
        _columns("of measure header:number parsed:number database:number report:number difference:number agrees:flag"),
        parameters=_DAYS,
        view="balance-amount",
    ),
    Analysis(
        "denials",
        "denials",
        _columns(
            "denial_code clinician_id activities:number claims:number denied_amount:number part_paid_activities:number"
            " held_amount:number"
        ),
        parameters=(*_DAYS, *_WHERE, "by"),
    ),
    Analysis(
        "ageing",
        "ageing",
        _columns(
            "payer_id is_total:flag claims:number pending_amount:number "
            + " ".join(f"claims_{days}:number pending_{days}:number" for days in _BUCKETS)
        ),
        parameters=_WHERE,
        view="balance-amount",
        is_live=False,
        ages=True,
    ),
)
