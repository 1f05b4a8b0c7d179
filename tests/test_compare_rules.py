"""The rules of `sluice compare`, which need no server: intervals, when to stop, verdicts, fits, searches, bottlenecks."""

import random
from dataclasses import replace

import pytest

from app.comparing.bottleneck import Strain, bottleneck
from app.comparing.capacity import Trial, search
from app.comparing.costs_fit import fit
from app.comparing.intervals import PAIRS_MIN, Interval, interval_of, is_enough, ratios_of
from app.comparing.plans import FULL, QUICK, Budget
from app.comparing.switchback import ROUNDS_WANTED, Rhythm, hurried, rhythm_for
from app.comparing.verdicts import AtLoad, Judgement, cost_sentence, judge, sentence, summary

BETTER, WORSE = Interval(1.8, 1.7, 1.9, 12), Interval(0.93, 0.9, 0.96, 12)
ALIKE, FEW = Interval(1.01, 0.97, 1.05, 12), Interval(3.0, 2.9, 3.1, PAIRS_MIN - 1)


def test_interval_covers() -> None:
    """Of 100 samples with a known median, nine in ten intervals hold it, and none is wider than its values."""
    chance = random.Random(7)
    held = 0
    for _ in range(100):
        values = [chance.gauss(1.5, 0.2) for _ in range(12)]
        interval = interval_of(values)
        assert min(values) <= interval.low <= interval.middle <= interval.high <= max(values)
        held += interval.low <= 1.5 <= interval.high
    assert held >= 90


def test_interval_is_reproducible_and_narrows() -> None:
    """The same values give the same interval; more of them a narrower one."""
    chance = random.Random(3)
    values = [chance.gauss(1.0, 0.1) for _ in range(80)]
    assert interval_of(values) == interval_of(values)
    assert interval_of(values).half_width < interval_of(values[:8]).half_width


def test_ratios_are_of_pairs() -> None:
    """A ratio is of the two halves of one pair, whatever the machine's speed was meanwhile; half a pair is none."""
    assert ratios_of([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == [2.0, 2.0, 2.0]
    assert ratios_of([2.0, 0.0, 4.0], [1.0, 1.0, 0.0]) == [2.0]


@pytest.mark.parametrize(
    ("ratios", "enough"),
    [
        ([[1.5, 1.51, 1.49, 1.5, 1.5]], True),
        ([[1.5, 1.51, 1.49, 1.5]], False),
        ([[1.5, 1.8, 1.2, 1.5, 1.6]], False),
        ([[1.5] * 6, [1.0, 2.0, 1.5, 1.2, 1.8]], False),
    ],
)
def test_stop(ratios: list[list[float]], *, enough: bool) -> None:
    """Measuring ends early only when every interval lies within ± 5 %, of five pairs at least."""
    assert is_enough(ratios) is enough


@pytest.mark.parametrize(
    ("interval", "throughput", "latency"),
    [
        (BETTER, Judgement.BETTER, Judgement.WORSE),
        (WORSE, Judgement.WORSE, Judgement.BETTER),
        (ALIKE, Judgement.NONE, Judgement.NONE),
        (Interval(1.02, 1.01, 1.025, 40), Judgement.NONE, Judgement.NONE),
        (Interval(1.5, 0.99, 2.0, 12), Judgement.NONE, Judgement.NONE),
        (FEW, Judgement.UNKNOWN, Judgement.UNKNOWN),
        (None, Judgement.UNKNOWN, Judgement.UNKNOWN),
    ],
)
def test_judge(interval: Interval | None, throughput: Judgement, latency: Judgement) -> None:
    """What holds 1 or is within 3 % of it is no difference; few pairs say nothing; of latency less is better."""
    assert judge(interval) is throughput
    assert judge(interval, lower_is_better=True) is latency


def test_sentence() -> None:
    """A verdict says what is gained and where, then where it is not worth it, and never hides what was refused."""
    loads = [AtLoad("1 in flight", WORSE), AtLoad("16 in flight", ALIKE), AtLoad("64 in flight", BETTER, bad_channel=0.02)]
    assert sentence("mix", loads) == (
        "mix: channel 1.80 × [1.70, 1.90] the throughput at 64 in flight; "
        "not worth it at 1 in flight (0.93 × [0.90, 0.96] the throughput); "
        "no difference shown at 16 in flight (1.01 × [0.97, 1.05] the throughput); "
        "at 64 in flight refused or failed: 2.0% of channel, 0.0% of direct."
    )
    assert "not worth it" in sentence("mix", [AtLoad("900 a second", BETTER, is_latency=True)])
    assert sentence("mix", [AtLoad("1 in flight", FEW)]) == "mix: channel too few pairs to tell at 1 in flight."


def test_summary() -> None:
    """For whom and when, a line a load; what is worse is named, and where nothing is shown it says so."""
    one, many = "1 in flight", "64 in flight"
    told = summary([
        ("mix", [AtLoad(one, WORSE), AtLoad(many, BETTER)]),
        ("review", [AtLoad(one, WORSE), AtLoad(many, WORSE)]),
        ("get_patient", [AtLoad(one, ALIKE), AtLoad(many, BETTER)]),
    ])  # fmt: skip
    one_line, other = told.splitlines()
    assert one_line == "At 1 in flight channels do not pay. The mix: 0.93 × [0.90, 0.96] the throughput."
    assert other.startswith("At 64 in flight channels pay for the mix and get_patient, not for review. The mix: 1.80 × [")
    assert summary([("review", [AtLoad(one, ALIKE)])]) == "At 1 in flight no difference is shown."
    worse = summary([("mix", [AtLoad(one, ALIKE)]), ("review", [AtLoad(one, WORSE)])])
    assert worse.startswith("At 1 in flight channels do not pay for review; elsewhere no difference is shown.")
    assert "too few pairs" in summary([("mix", [AtLoad(one, FEW)])])


def test_fit() -> None:
    """The line that made the times is found again, with its greatest gain (a + b) / a."""
    found = fit({n: [0.04 * n + 0.2] * 5 for n in (1, 2, 4, 8, 16, 32)})
    assert found.a_ms == pytest.approx(0.04)
    assert found.b_ms == pytest.approx(0.2)
    assert found.gain == pytest.approx(6.0)
    assert found.gain_low <= found.gain <= found.gain_high
    assert found.misfit < 1e-6
    assert found.can_pay


def test_fit_holds_for_a_lone_ask() -> None:
    """A large batch that is off by a fifth does not move what a lone ask costs by a tenth: errors count by their share."""
    found = fit({n: [(0.04 * n + 0.2) * (1.2 if n == 32 else 1.0)] * 3 for n in (1, 2, 4, 8, 16, 32)})
    assert found.a_ms + found.b_ms == pytest.approx(0.24, rel=0.1)


def test_fit_of_what_cannot_pay() -> None:
    """Where b is small against a, or nothing, batching cannot pay; a cost that does not grow gains without end."""
    assert not fit({n: [1.0 * n + 0.05] * 3 for n in (1, 2, 4, 8)}).can_pay
    assert not fit({n: [1.0 * n**1.2] * 3 for n in (1, 2, 4, 8)}).can_pay
    assert fit({n: [0.3] * 3 for n in (1, 2, 4, 8)}).gain == 1000.0


def test_cost_sentence() -> None:
    """What cannot pay, and what is never batched, is not praised for what it could gain."""
    assert "at most 6.0 ×" in cost_sentence("review", 6.0, can_pay=True, shares=True)
    assert "cannot pay" in cost_sentence("review", 1.05, can_pay=False, shares=True)
    assert "never batched" in cost_sentence("list_patients", 6.0, can_pay=True, shares=False)


@pytest.mark.parametrize(("start", "limit"), [(100.0, 340.0), (1000.0, 340.0), (340.0, 340.0)])
def test_capacity_search(start: float, limit: float) -> None:
    """From below or above, the highest rate that meets the limit is found within a few per cent."""
    found = search(lambda rate: Trial(rate, 10.0 if rate <= limit else 90.0, 0.0, saturated=False), start, 50.0, steps=12)
    assert found.rate is not None
    assert limit / 1.06 <= found.rate <= limit
    assert not found.limited


def test_capacity_counts_refusals() -> None:
    """A rate at which one request in a thousand is refused or fails is no capacity, however quick the others were."""
    found = search(lambda rate: Trial(rate, 1.0, 0.0 if rate <= 100 else 0.001, saturated=False), 90.0, 50.0, steps=12)
    assert found.rate is not None
    assert found.rate <= 100
    assert search(lambda rate: Trial(rate, 1.0, 0.5, saturated=False), 90.0, 50.0, steps=4).rate is None


def test_capacity_of_a_generator_that_is_full() -> None:
    """Where the generator can send no more, the rate found is a least one and says so."""
    found = search(lambda rate: Trial(rate, 1.0, 0.0, saturated=rate > 500), 400.0, 50.0, steps=12)
    assert found.rate is not None
    assert 400 <= found.rate <= 500
    assert found.limited


STRAIN = Strain(
    in_flight=64, server_cores=0.3, database_cores=0.2, generator_share=0.2, machine_cores=0.7, cores=2,
    stages_ms={"queue": 0.1, "pool": 0.0, "query": 0.3, "encode": 0.1}, total_ms=2.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"generator_share": 0.9, "server_cores": 1.0}, "the load generator"),
        ({"machine_cores": 1.9}, "other programs on this machine"),
        ({"server_cores": 0.9, "machine_cores": 1.4}, "CPU of the server's event loop"),
        ({"server_cores": 0.8, "database_cores": 0.6, "machine_cores": 1.9}, "the machine's cores, which all share"),
        ({"stages_ms": {**STRAIN.stages_ms, "queue": 1.5}}, "the wait for a connection"),
        ({"stages_ms": {**STRAIN.stages_ms, "query": 1.5}, "database_cores": 0.9, "machine_cores": 1.5}, "CPU of the database"),
        ({"in_flight": 1, "stages_ms": {**STRAIN.stages_ms, "query": 0.6}}, "the way to the database and back"),
        ({"database_cores": None}, "nothing alone"),
    ],
)
def test_bottleneck(changes: dict[str, object], name: str) -> None:
    """Each bottleneck is named by its own figures, and they are told."""
    found = bottleneck(replace(STRAIN, **changes))  # type: ignore[arg-type]  # the field's own type
    assert found.name == name
    assert any(character.isdigit() for character in found.because)


def test_rhythm() -> None:
    """With time enough a block has 5 to 8 s, however many slices; with little, the rounds that a verdict needs go before."""
    long = rhythm_for(10_000.0, blocks=6)
    for slices in (1, 3, 8):
        assert 5 <= long.lead_s + slices * (long.settle_s + long.slice_s(slices)) <= 8
    short = rhythm_for(60.0, blocks=2)
    assert (short.lead_s + 8 * (short.settle_s + short.slice_s(8))) * 2 * ROUNDS_WANTED <= 60


def test_hurried() -> None:
    """Where rounds take longer than planned, blocks become shorter, so that there are still enough of them."""
    rhythm = Rhythm(6.0)
    assert hurried(rhythm, round_s=20.0, blocks=2, left_s=60.0, rounds=1).block_s == pytest.approx(3.5)
    assert hurried(rhythm, round_s=20.0, blocks=2, left_s=100.0, rounds=1) == rhythm
    assert hurried(rhythm, round_s=20.0, blocks=2, left_s=1.0, rounds=ROUNDS_WANTED) == rhythm
    assert hurried(rhythm, round_s=20.0, blocks=2, left_s=1.0, rounds=1).slice_s(9) > 0


def test_budget() -> None:
    """Sections have their shares of the time, and what one leaves is for those that follow."""
    for plan in (FULL, QUICK):
        budget = Budget(plan)
        ends = [budget.until(section) for section in plan.shares]
        assert all(end <= budget.ends_at + 0.01 for end in ends)
        assert ends[-1] == pytest.approx(budget.ends_at, abs=0.01)
    assert (FULL.seconds, QUICK.seconds) == (1200.0, 120.0)
