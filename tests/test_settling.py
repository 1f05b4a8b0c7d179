"""What is known of a claim of all that files said of it: rules by hand, and random histories against the model."""

from collections.abc import Sequence
from datetime import UTC
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion.claims import Claim, Event
from ingestion.settling.history import Settled, settle
from ingestion.settling.money import Amounts
from tests import money_model as model
from tests.conftest import PROVE
from tests.histories import TYPES, histories, hour, remittance, submission

randomly = settings(
    max_examples=5000 if PROVE else 250,
    derandomize=not PROVE,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
ONE = submission(0, {"A1": "100.00"})
TWO = submission(0, {"A1": "100.00", "A2": "50.00"})


def figures(amounts: Amounts | model.Money) -> dict[str, Decimal]:
    """Those that are not 0."""
    return {name: getattr(amounts, name) for name in model.NAMES if getattr(amounts, name)}


def told(*events: Event) -> tuple[str, dict[str, Decimal]]:
    """The claim's status and amounts, after the whole of it was compared with the model."""
    settled = settle(events)
    compare(settled, events)
    return settled.status, figures(settled.amounts)


def expect(status: str, **amounts: str) -> tuple[str, dict[str, Decimal]]:
    return status, {name: Decimal(amount) for name, amount in amounts.items()}


def compare(settled: Settled, events: Sequence[Event]) -> None:
    compare_claim(settled, events)
    compare_activities(settled, events)
    compare_steps(settled, events)


def compare_claim(settled: Settled, events: Sequence[Event]) -> None:
    again = model.resubmissions(events)
    assert settled.claim == model.terms(events)
    assert settled.submission == next(iter(model.submissions(events)), None)
    assert figures(settled.amounts) == figures(model.claim_money(events))
    assert settled.status == model.claim_status(events)
    assert settled.status_at == model.status_at(events)
    assert settled.resubmission_count == len(again)
    assert settled.last_resubmission_at == (again[-1].at if again else None)
    assert [step.event for step in settled.remittances] == model.remittances(events)
    kinds = {model.kind(event, events) for event in events}
    assert len(settled.remarks) == ("repetition" in kinds) + bool(settled.claim and model.orphans(events))


def compare_activities(settled: Settled, events: Sequence[Event]) -> None:
    expected = model.activities(events)
    assert [state.activity.id for state in settled.activities] == list(expected)
    for state, now in zip(settled.activities, expected.values(), strict=True):
        assert figures(state.amounts) == figures(now.money)
        found = (state.activity, state.ordinal, state.submitted_at, state.status, state.denial_code, state.last_remitted_at)
        assert found == (now.activity, now.ordinal, now.submitted_at, now.status, now.denial_code, now.last_remitted_at)


def compare_steps(settled: Settled, events: Sequence[Event]) -> None:
    ordered = model.timeline(events)
    assert [step.event for step in settled.steps] == ordered
    assert [step.kind for step in settled.steps] == [model.kind(event, events) for event in ordered]
    assert [(step.event.at, step.status) for step in settled.steps] == model.statuses(events)
    for place, step in enumerate(settled.steps, 1):
        assert figures(step.amounts) == figures(model.claim_money(ordered[:place]))


def test_a_submission_is_pending() -> None:
    """All of what was submitted is pending until something is remitted."""
    assert told(TWO) == expect("PENDING", net="150.00", pending="150.00")


def test_nothing_is_netted_between_activities() -> None:
    """What was paid too much for one activity pays nothing of another."""
    event = remittance(1, {"A1": "130.00", "A2": "0.00"})
    assert told(TWO, event) == expect("PARTIALLY_PAID", net="150.00", held="100.00", pending="50.00", overpaid="30.00")


def test_a_remittance_before_its_submission() -> None:
    """A remittance is kept, counts for nothing while no submission is known, and counts whole as soon as one is."""
    early = remittance(0, {"A1": "100.00"})
    assert told(early) == expect("PENDING")
    assert settle([early]).claim is None
    assert told(early, submission(1, {"A1": "100.00"})) == expect("PAID", net="100.00", held="100.00")
    late = settle([submission(1, {"A1": "100.00"}), early])
    assert [(step.kind, step.status, figures(step.amounts)) for step in late.steps] == [
        ("remittance", *expect("PENDING")),
        ("submission", *expect("PAID", net="100.00", held="100.00")),
    ]


def test_a_claim_id_said_again() -> None:
    """Of submissions without Resubmission the earliest counts, whichever came first; others are remarked and change nothing."""
    again = submission(5, {"A1": "900.00", "A7": "1.00"}, payer_id="INS009")
    for events in ([ONE, again], [again, ONE]):
        settled = settle(events)
        assert told(*events) == expect("PENDING", net="100.00", pending="100.00")
        assert settled.claim == ONE.content
        assert [step.kind for step in settled.steps] == ["submission", "repetition"]
        assert [(remark.severity, remark.claim_id) for remark in settled.remarks] == [("warning", "C-1")]


def test_a_repetition_reopens_nothing() -> None:
    """A claim id said again without Resubmission leaves what was denied denied."""
    denied = remittance(1, {"A1": "0.00 MNEC-003"})
    assert told(ONE, denied, submission(2, {"A1": "100.00"})) == expect("REJECTED", net="100.00", denied="100.00")


def test_a_resubmission_alone() -> None:
    """A resubmission whose submission is not known stands as the submission."""
    only = submission(3, {"A1": "100.00"}, "legacy")
    settled = settle([only])
    assert told(only) == expect("PENDING", net="100.00", pending="100.00")
    assert (settled.submission, settled.resubmission_count, settled.steps[0].kind) == (only, 0, "submission")


def test_a_submission_that_bears_a_later_time_than_its_correction() -> None:
    """The submission without Resubmission is the ground on which resubmissions stand, also where their times say otherwise."""
    correction = submission(1, {"A1": "80.00"}, "correction", payer_id="INS002")
    settled = settle([submission(2, {"A1": "100.00", "A2": "50.00"}), correction])
    assert told(*[step.event for step in settled.steps]) == expect("PENDING", net="130.00", pending="130.00")
    assert [(step.kind, step.amounts.net) for step in settled.steps] == [
        ("resubmission", Decimal("80.00")),
        ("submission", Decimal("130.00")),
    ]
    assert settled.claim is not None
    assert settled.claim.payer_id == "INS002"


def test_a_correction() -> None:
    """A correction replaces activities by their ids, adds new ones, leaves the rest; the claim's own fields follow it."""
    correction = submission(2, {"A3": "30.00", "A1": "80.00"}, "correction", payer_id="INS002", member_id="M-2")
    settled = settle([correction, TWO])
    assert told(TWO, correction) == expect("PENDING", net="160.00", pending="160.00")
    nets = [(state.activity.id, state.ordinal, str(state.amounts.net), state.submitted_at) for state in settled.activities]
    assert nets == [("A1", 1, "80.00", hour(2)), ("A2", 2, "50.00", hour(0)), ("A3", 3, "30.00", hour(2))]
    assert isinstance(settled.claim, Claim)
    assert (settled.claim.payer_id, settled.claim.member_id) == ("INS002", "M-2")
    assert (settled.submission, settled.resubmission_count, settled.last_resubmission_at) == (TWO, 1, hour(2))


@pytest.mark.parametrize("kind", [each for each in TYPES if each != "correction"])
def test_other_resubmissions(kind: str) -> None:
    """Another resubmission adds the activities that are new, and changes neither known ones nor the claim's own fields."""
    again = submission(2, {"A3": "30.00", "A1": "80.00"}, kind, payer_id="INS002")
    assert told(TWO, again) == expect("PENDING", net="180.00", pending="180.00")
    claim = settle([TWO, again]).claim
    assert claim is not None
    assert claim.payer_id == "INS001"
    assert claim.resubmission is not None
    assert claim.resubmission.type == kind


@pytest.mark.parametrize("kind", TYPES)
def test_a_resubmission_reopens(kind: str) -> None:
    """Any later resubmission makes what was denied or taken back of any activity pending; a later line closes it again."""
    closed = remittance(1, {"A1": "0.00 MNEC-003", "A2": "50.00"}), remittance(2, {"A2": "-20.00"})
    assert told(TWO, *closed) == expect("PARTIALLY_PAID", net="150.00", held="30.00", taken_back="20.00", denied="100.00")
    again = submission(3, {"A1": "100.00"}, kind)
    assert told(TWO, *closed, again) == expect("PARTIALLY_PAID", net="150.00", held="30.00", pending="120.00")
    assert [state.denial_code for state in settle([TWO, *closed, again]).activities] == [None, None]
    last = remittance(4, {"A1": "0.00 MNEC-003"})
    expected = expect("PARTIALLY_PAID", net="150.00", held="30.00", denied="100.00", pending="20.00")
    assert told(TWO, *closed, again, last) == expected


def test_equal_times_reopen_nothing() -> None:
    """A resubmission reopens only if it is later than the activity's last line: of equal times the line is the answer."""
    again = submission(1, {"A1": "100.00"}, "legacy")
    assert told(ONE, remittance(1, {"A1": "0.00 MNEC-003"}), again) == expect("REJECTED", net="100.00", denied="100.00")


def test_what_was_not_there_is_not_reopened() -> None:
    """An activity that a resubmission brings, denied before, stays denied until the next one."""
    denied = remittance(1, {"A2": "0.00 ELIG-001"})
    brings = submission(2, {"A2": "50.00"}, "correction")
    assert told(ONE, denied, brings) == expect("PENDING", net="150.00", denied="50.00", pending="100.00")
    assert told(ONE, denied, brings, submission(3, {}, "legacy")) == expect("PENDING", net="150.00", pending="150.00")


def test_the_settlement_decides_which_line_is_the_latest() -> None:
    """The latest line is the one that was settled last, whatever the order of their headers; so with the remittances."""
    denies = remittance(1, {"A1": "0.00 MNEC-003"}, settled=9)
    asks = remittance(2, {"A1": "0.00"}, settled=8)
    assert told(ONE, denies, asks) == expect("REJECTED", net="100.00", denied="100.00")
    assert [step.event for step in settle([ONE, denies, asks]).remittances] == [asks, denies]


def test_then_the_header_the_file_and_the_place() -> None:
    """Lines settled at one time follow their headers' dates, then file ids, then their places in the file and in the claim."""
    denial, none = {"A1": "0.00 MNEC-003"}, {"A1": "0.00"}
    denied, pending = (expect("REJECTED", net="100.00", denied="100.00"), expect("PENDING", net="100.00", pending="100.00"))
    assert told(ONE, remittance(1, none, settled=9), remittance(2, denial, settled=9)) == denied
    assert told(ONE, remittance(1, none, file_id="b"), remittance(1, denial, file_id="a")) == pending
    assert told(ONE, remittance(1, none, n=1, file_id="b"), remittance(1, denial, n=2, file_id="b")) == denied
    assert told(ONE, remittance(1, [("A1", "0.00 MNEC-003"), ("A1", "0.00")])) == pending


def test_lines_of_unknown_activities() -> None:
    """A line for an activity that no submission holds counts for nothing, is kept, and is remarked without what it says."""
    stray = remittance(1, {"A1": "40.00", "X9": "60.00"})
    assert told(ONE, stray) == expect("PARTIALLY_PAID", net="100.00", held="40.00", pending="60.00")
    settled = settle([ONE, stray])
    assert settled.remittances[0].event == stray
    assert [remark.severity for remark in settled.remarks] == ["warning"]
    assert "X9" not in settled.remarks[0].reason


def test_when_the_status_became_what_it_is() -> None:
    """The status bears the time of the step that brought it, not of those that confirmed it."""
    settled = settle([ONE, *(remittance(at, {"A1": "30.00"}) for at in (3, 5, 7))])
    assert (settled.status, settled.status_at) == ("PARTIALLY_PAID", hour(3))


def test_a_claim_of_nothing_is_closed() -> None:
    """A claim whose activities are worth nothing is closed, and its activities say whether they were denied."""
    free = submission(0, {"A1": "0.00", "A2": "0.00"})
    denied = remittance(1, {"A1": "0.00 MNEC-003"})
    assert told(free, denied) == expect("CLOSED")
    assert [state.status for state in settle([free, denied]).activities] == ["REJECTED", "PENDING"]


def test_amounts_have_two_places() -> None:
    """However an amount was written, it stands with two places."""
    (state,) = settle([submission(0, {"A1": "100"}), remittance(1, {"A1": "30.5"}), remittance(2, {"A1": "0.004"})]).activities
    assert [str(getattr(state.amounts, name)) for name in ("net", "held", "pending")] == ["100.00", "30.50", "69.50"]


def test_no_events() -> None:
    """Of no events nothing is known."""
    compare(settle([]), [])


@randomly
@given(histories)
def test_random_histories(events: list[Event]) -> None:
    """Whatever files said, everything that is settled, and each step of it, is what the plainly written rules say."""
    compare(settle(events), events)


@randomly
@given(histories, st.data())
def test_the_order_of_events_does_not_matter(events: list[Event], data: st.DataObject) -> None:
    """A history gives the same in whatever order it came."""
    assert settle(data.draw(st.permutations(events))) == settle(events)


@randomly
@given(histories)
def test_each_step_stands_as_if_it_were_the_last(events: list[Event]) -> None:
    """What stands after a step is what is settled of the events up to it."""
    steps = settle(events).steps
    for place, step in enumerate(steps, 1):
        until = settle([each.event for each in steps[:place]])
        assert (step.status, step.amounts) == (until.status, until.amounts)


@randomly
@given(histories)
def test_amounts_add_up(events: list[Event]) -> None:
    """Held, taken back, denied and pending make net, none below 0, with two places: of activities, claims and every step."""
    settled = settle(events)
    for amounts in [settled.amounts, *(step.amounts for step in settled.steps), *(each.amounts for each in settled.activities)]:
        assert amounts.net == amounts.held + amounts.taken_back + amounts.denied + amounts.pending
        parts = [getattr(amounts, name) for name in model.NAMES]
        assert all(part >= 0 and part.as_tuple().exponent == -2 for part in parts)


def test_zones_do_not_matter() -> None:
    """Times are compared as instants, in whatever zone they were kept."""
    again = submission(1, {"A1": "80.00"}, "correction")
    kept = Event(again.at.astimezone(UTC), again.facility_no, again.file_id, again.n, again.sender_id, again.content)
    assert told(remittance(2, {"A1": "0.00 MNEC-003"}), kept, ONE) == expect("REJECTED", net="80.00", denied="80.00")


def test_long_histories_take_their_time_and_no_more() -> None:
    """The work grows with the number of events, not with its square: it is counted in lines of Python that run."""
    lengths = (50, 400)
    short, long = (calls_of([ONE, *(remittance(at, {"A1": "0.10"}) for at in range(1, n))]) for n in lengths)
    assert long / short < 1.2 * lengths[1] / lengths[0]


def calls_of(events: Sequence[Event]) -> int:
    import sys

    count = 0

    def counting(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(counting)
    try:
        settle(events)
    finally:
        sys.setprofile(None)
    return count
