"""From figures to words: what is better, what is worse, and what nobody can tell. Pure; the rules are docs/compare.md's."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from app.comparing.cells import MIX
from app.comparing.intervals import PAIRS_MIN, Interval

NEGLIGIBLE = 0.03
"""A difference below this is none, however certain it is."""
BAD_SHOWN = 0.001


class Judgement(Enum):
    """Of a ratio, channel to direct."""

    BETTER = "better"
    WORSE = "worse"
    NONE = "no difference shown"
    UNKNOWN = "too few pairs"


def judge(interval: Interval | None, *, lower_is_better: bool = False) -> Judgement:
    """An interval that holds 1 shows no difference, and neither does a middle within 3 % of it."""
    if interval is None or interval.pairs < PAIRS_MIN:
        return Judgement.UNKNOWN
    if interval.low <= 1 <= interval.high or abs(interval.middle - 1) < NEGLIGIBLE:
        return Judgement.NONE
    return Judgement.BETTER if (interval.middle > 1) != lower_is_better else Judgement.WORSE


@dataclass(frozen=True)
class AtLoad:
    """One operation at one load: the ratio of throughput, or of p99 at a rate, and each path's share of bad answers."""

    at: str
    ratio: Interval | None
    is_latency: bool = False
    bad_direct: float = 0.0
    bad_channel: float = 0.0

    @property
    def judgement(self) -> Judgement:
        return judge(self.ratio, lower_is_better=self.is_latency)


def sentence(name: str, loads: Sequence[AtLoad], *, arm: str = "channel") -> str:
    """Such as `mix: channel 1.80 × [1.70, 1.90] the throughput at 64 in flight; not worth it at 1 in flight (0.93 × …)`."""
    if not loads:
        return f"{name}: not measured."
    order = (Judgement.BETTER, Judgement.WORSE, Judgement.NONE, Judgement.UNKNOWN)
    ranked = sorted(loads, key=lambda load: order.index(load.judgement))
    parts = [_part(load) for load in ranked]
    warnings = [_warning(load, arm) for load in loads if max(load.bad_direct, load.bad_channel) >= BAD_SHOWN]
    return f"{name}: {arm} " + "; ".join([*parts, *warnings]) + "."


def _part(load: AtLoad) -> str:
    what = "the p99" if load.is_latency else "the throughput"
    if load.judgement is Judgement.BETTER:
        return f"{load.ratio} {what} at {load.at}"
    if load.judgement is Judgement.WORSE:
        return f"not worth it at {load.at} ({load.ratio} {what})"
    if load.judgement is Judgement.NONE:
        return f"no difference shown at {load.at} ({load.ratio} {what})"
    return f"too few pairs to tell at {load.at}"


def _warning(load: AtLoad, arm: str) -> str:
    return f"at {load.at} refused or failed: {load.bad_channel:.1%} of {arm}, {load.bad_direct:.1%} of direct"


def summary(verdicts: Sequence[tuple[str, Sequence[AtLoad]]]) -> str:
    """For whom and when channels pay, by load; the mix stands for all operations where it says the same."""
    by_load: dict[str, dict[Judgement, list[str]]] = {}
    of_mix: dict[str, str] = {}
    for name, loads in verdicts:
        for load in loads:
            if not load.is_latency:
                by_load.setdefault(load.at, {}).setdefault(load.judgement, []).append(name)
            if name == MIX and load.judgement is not Judgement.UNKNOWN:
                of_mix[load.at] = f" The mix: {load.ratio} the throughput."
    if not by_load:
        return "Nothing was measured that could be judged."
    return "\n".join(_summary_at(at, found) + of_mix.get(at, "") for at, found in by_load.items())


def _summary_at(at: str, found: dict[Judgement, list[str]]) -> str:
    better, worse = found.get(Judgement.BETTER, []), found.get(Judgement.WORSE, [])
    unknown = found.get(Judgement.UNKNOWN, [])
    if not better and not worse:
        return f"At {at} {'too few pairs were measured to tell' if unknown else 'no difference is shown'}."
    if MIX in better and not worse:
        return f"At {at} channels pay" + _except(found.get(Judgement.NONE, []), "no difference is shown for") + "."
    if MIX in worse and not better:
        return f"At {at} channels do not pay."
    if not better:
        return f"At {at} channels do not pay for {_listed(worse)}; elsewhere no difference is shown."
    return f"At {at} channels pay for {_listed(better)}" + (f", not for {_listed(worse)}" if worse else "") + "."


def _except(names: Sequence[str], words: str) -> str:
    return f" ({words} {_listed(names)})" if names else ""


def _listed(names: Sequence[str]) -> str:
    shown = [f"the {name}" if name == MIX else name for name in names]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def cost_sentence(name: str, gain: float, *, can_pay: bool, shares: bool) -> str:
    """`shares`: whether the dispatcher lets this statement be shared; what no index bounds runs alone."""
    if not can_pay:
        return f"{name}: batching cannot pay, a statement costs hardly more than its asks do (at most {gain:.2f} ×)."
    if not shares:
        return f"{name}: never batched, for no index bounds its work; its asks run one by one (they could gain {gain:.1f} ×)."
    return f"{name}: batching can give at most {gain:.1f} × of one connection's asks."
