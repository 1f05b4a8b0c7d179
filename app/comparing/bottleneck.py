"""What holds throughput back, from figures: a pure table of rules, of which the first that holds names it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from simulator.load_types import SATURATED_SHARE

LOOP_FULL = 0.85
"""Of one core: an event loop that is this busy makes all requests wait for it."""
MACHINE_FULL = 0.9
OTHERS_SHARE = 0.2
"""Of all cores: who else uses as much is what was measured."""


@dataclass(frozen=True)
class Strain:
    """CPU in cores (`database_cores` None where it cannot be seen), and the mean milliseconds of a request by stage.

    Stages are the server's own: `queue` and `pool` wait for a connection, `query` for the database, `encode` makes the
    answer; `total_ms` is the client's, from the due time.
    """

    in_flight: int
    server_cores: float
    database_cores: float | None
    generator_share: float
    machine_cores: float
    cores: int
    stages_ms: Mapping[str, float]
    total_ms: float

    @property
    def waits_ms(self) -> float:
        return self.stages_ms["queue"] + self.stages_ms["pool"]

    @property
    def others(self) -> float:
        """Cores that none of ours used; 0 where the database cannot be seen, for it may be that."""
        if self.database_cores is None:
            return 0.0
        return max(self.machine_cores - self.server_cores - self.database_cores - self.generator_share, 0.0)

    @property
    def busy(self) -> str:
        database = "unknown" if self.database_cores is None else f"{self.database_cores:.2f}"
        return (
            f"{self.machine_cores:.2f} of {self.cores} cores were busy: server {self.server_cores:.2f}, database {database}, "
            f"load generator {self.generator_share:.2f}"
        )

    @property
    def spent(self) -> str:
        return (
            f"of a request's {self.total_ms:.2f} ms it waited {self.waits_ms:.2f} for a connection, "
            f"{self.stages_ms['query']:.2f} for its statement"
        )


@dataclass(frozen=True)
class Bottleneck:
    """`because`: the figures that say so."""

    name: str
    because: str


_Rule = tuple[str, Callable[[Strain], bool], Callable[[Strain], str]]
_RULES: tuple[_Rule, ...] = (
    ("the load generator", lambda s: s.generator_share > SATURATED_SHARE, lambda s: s.busy),
    ("other programs on this machine", lambda s: s.others >= OTHERS_SHARE * s.cores, lambda s: s.busy),
    ("CPU of the server's event loop", lambda s: s.server_cores >= LOOP_FULL, lambda s: s.busy),
    ("the machine's cores, which all share", lambda s: s.machine_cores >= MACHINE_FULL * s.cores, lambda s: s.busy),
    ("the wait for a connection", lambda s: s.waits_ms >= s.total_ms / 2, lambda s: s.spent),
    (
        "CPU of the database",
        lambda s: s.stages_ms["query"] >= s.total_ms / 2 and (s.database_cores or 0.0) > s.server_cores,
        lambda s: f"{s.spent}; {s.busy}",
    ),
    (
        "the way to the database and back",
        lambda s: s.in_flight == 1 and s.stages_ms["query"] >= s.total_ms / 4,
        lambda s: f"{s.spent}; {s.busy}",
    ),
    ("nothing alone", lambda _: True, lambda s: f"{s.spent}; {s.busy}"),
)


def bottleneck(strain: Strain) -> Bottleneck:
    return next(Bottleneck(name, because(strain)) for name, holds, because in _RULES if holds(strain))
