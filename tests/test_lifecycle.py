"""The lifecycle alone, on a clock that is passed in: no I/O, so virtual time is honest here."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tenants.actor import Tenant, TenantActor
from tenants.lifecycle import Lifecycle
from tenants.phase import NEXT, Event, Phase
from tests.conftest import PROVE

TENANTS = (1, 2)
COOLDOWN_S = 10.0


class Interleavings(RuleBasedStateMachine):
    """Commands in any order, against the plainest model: the last command of each tenant, and when it runs out."""

    def __init__(self) -> None:
        super().__init__()
        self.lifecycle = Lifecycle(queue_size=4)
        self.now = 0.0
        self.wanted: dict[int, float | None] = dict.fromkeys(TENANTS)
        self.warming: dict[int, TenantActor] = {}
        self.detached: list[TenantActor] = []
        self.seen: list[TenantActor] = []

    @rule(tenant=st.sampled_from(TENANTS))
    def warm_up(self, tenant: int) -> None:
        actor = self.lifecycle.attached(tenant)
        if actor is None:
            actor = self.warming[tenant] = self.lifecycle.begin(Tenant(tenant, str(tenant), exclusive=False))
            self.seen.append(actor)
        elif actor.phase is Phase.WARM:
            self.lifecycle.extend(actor, self.now + COOLDOWN_S)
            self.wanted[tenant] = self.now + COOLDOWN_S

    @rule(tenant=st.sampled_from(TENANTS))
    def ready(self, tenant: int) -> None:
        actor = self.warming.pop(tenant, None)
        if actor is not None:
            cancelled = actor.phase is not Phase.WARMING
            assert self.lifecycle.ready(actor, self.now + COOLDOWN_S) is not cancelled
            if not cancelled:
                self.wanted[tenant] = self.now + COOLDOWN_S

    @rule(tenant=st.sampled_from(TENANTS))
    def fail(self, tenant: int) -> None:
        actor = self.warming.pop(tenant, None)
        if actor is not None:
            self.lifecycle.fail(actor)

    @rule(tenant=st.sampled_from(TENANTS))
    def cool_down(self, tenant: int) -> None:
        actor = self.lifecycle.attached(tenant)
        if actor is not None:
            self._retire(actor)

    @rule(tenant=st.sampled_from(TENANTS))
    def request(self, tenant: int) -> None:
        actor = self.lifecycle.warm(tenant)
        if actor is not None:
            actor.open += 1

    @precondition(lambda self: any(actor.open for actor in self.seen))
    @rule(data=st.data())
    def answer(self, data: Any) -> None:
        actor = data.draw(st.sampled_from([actor for actor in self.seen if actor.open]))
        actor.open -= 1
        if actor.open == 0 and actor.phase is Phase.COOLING:
            self.lifecycle.drained(actor)

    @rule(seconds=st.floats(0.1, 12.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for actor in self.lifecycle.due(self.now):
            assert actor.cools_at <= self.now
            self._retire(actor)

    def _retire(self, actor: TenantActor) -> None:
        self.lifecycle.retire(actor)
        self.wanted[actor.tenant.tenant_id] = None
        self.detached.append(actor)

    @invariant()
    def at_most_one_live(self) -> None:
        for tenant in TENANTS:
            live = [a for a in self.seen if a.tenant.tenant_id == tenant and a.phase in (Phase.WARMING, Phase.WARM)]
            assert len(live) <= 1
            assert (live[0] if live else None) is self.lifecycle.attached(tenant)

    @invariant()
    def state_is_the_last_command(self) -> None:
        for tenant in TENANTS:
            until = self.wanted[tenant]
            warm = self.lifecycle.warm(tenant)
            assert (warm is not None) == (until is not None and tenant not in self._warming_now())
            if warm is not None:
                assert until == warm.cools_at
                assert until > self.now

    def _warming_now(self) -> set[int]:
        return {tenant for tenant in TENANTS if (a := self.lifecycle.attached(tenant)) and a.phase is Phase.WARMING}

    @invariant()
    def who_cools_is_known_until_drained(self) -> None:
        draining = [actor for actor in self.detached if actor.open]
        assert all(actor.phase is Phase.COOLING for actor in draining)
        assert all(actor.phase is Phase.COLD for actor in self.detached if not actor.open)
        assert self.lifecycle.counts()["cooling"] == len(draining)


Interleavings.TestCase.settings = settings(max_examples=10_000 if PROVE else 400, stateful_step_count=30, deadline=None)
test_interleavings = pytest.mark.timeout(900)(Interleavings.TestCase)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_every_event_in_every_phase(phase: Phase, event: Event) -> None:
    """What the table does not have is refused, and changes nothing."""
    actor = TenantActor(Tenant(1, "one", exclusive=False), 4)
    actor.phase = phase
    if (phase, event) in NEXT:
        actor.happen(event)
        assert actor.phase is NEXT[phase, event]
    else:
        with pytest.raises(KeyError):
            actor.happen(event)
        assert actor.phase is phase


def test_a_million_touches_keep_one_entry() -> None:
    """Extending a tenant makes no timer and no entry: a million touches cost what one costs."""
    lifecycle = Lifecycle(4)
    actor = lifecycle.begin(Tenant(1, "one", exclusive=False))
    lifecycle.ready(actor, 10.0)
    for touch in range(1_000_000):
        lifecycle.extend(actor, 10.0 + touch)
    assert len(lifecycle._due) == 1
    assert lifecycle.due(500_000.0) == []
    assert lifecycle.due(2_000_000.0) == [actor]
