"""What tests of polls share: a simulated post office, facilities registered with it, and a poller with a real loader."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg

from ingestion.credentials import Vault
from ingestion.loader import Loader
from ingestion.mapping.from_claims import Naming
from ingestion.polling.means import Loads, Means
from ingestion.polling.pace import Budget
from ingestion.polling.poll import Ended, Poller
from ingestion.polling.throttle import OPEN, Brake
from ingestion.post_office.client import Limits, open_post_office
from metrics.catalog import WorkerMetrics
from simulator.claims import PLAIN, GeneratedFile, facilities, generate
from simulator.post_office import Behaviour, Box, Office, serving
from simulator.post_office_behaviour import WELL_BEHAVED
from storage.claims import identity_secret
from storage.connecting.connections import Lender, PoolLimits
from storage.connecting.pools import INGEST_SETTINGS
from storage.connecting.watch import Primary
from storage.facilities import add_facility, facility_of
from tests.support import add_tenant, connected

SECRET = "a secret of the tests"
VAULT = Vault(SECRET.encode(), "SLUICE_SECRET")
PATIENT = Limits(attempts=2, backoff_s=0.001, backoff_max_s=0.002)
END = datetime.fromisoformat("2026-06-30T12:00:00+04:00")
SINCE = datetime.fromisoformat("2026-03-01T00:00:00+04:00")


@dataclass
class Clinics:
    """Facilities of the tenant `clinic` with their boxes, and what was generated for each; by licence."""

    url: str
    office: Office
    boxes: dict[str, Box]
    files: dict[str, list[GeneratedFile]]

    @property
    def licences(self) -> list[str]:
        return list(self.boxes)

    def behave(self, licence: str, **how: Any) -> None:
        self.boxes[licence].behave(Behaviour(**how))

    def asked(self, licence: str, operation: str) -> int:
        return self.boxes[licence].requests[operation]

    async def rows(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        async with connected(self.url) as connection:
            found: list[asyncpg.Record] = await connection.fetch(sql, *values)
            return found

    async def value(self, sql: str, *values: Any) -> Any:
        return (await self.rows(sql, *values))[0][0]

    async def number(self, licence: str) -> int:
        async with connected(self.url) as connection:
            return (await facility_of(connection, licence)).facility_no


def files_of(count: int, *, seed: int = 7, claims: int = 12, each: int = 4) -> dict[str, list[GeneratedFile]]:
    """By licence: `claims` in files of `each`, and their remittances, long ago."""
    found = {}
    for profile in facilities(count):
        found[profile.licence] = list(generate(seed, profile, claims=claims, claims_per_file=each, end=END, mix=PLAIN))
    return found


@asynccontextmanager
async def clinics(
    url: str,
    count: int = 1,
    *,
    files: Mapping[str, Sequence[GeneratedFile]] | None = None,
    acknowledge: bool = True,
    behaviour: Behaviour = WELL_BEHAVED,
) -> AsyncIterator[Clinics]:
    """A post office on loopback with `count` facilities, registered."""
    given = {licence: list(of) for licence, of in (files or files_of(count)).items()}
    boxes = {profile.login: Box(profile, given[profile.licence], behaviour) for profile in facilities(count)}
    async with serving(boxes) as office:
        await add_tenant(url, "clinic")
        async with connected(url) as connection:
            for box in boxes.values():
                await add_facility(
                    connection,
                    await connection.fetchval("SELECT tenant_id FROM ops.tenant WHERE name = 'clinic'"),
                    box.profile.licence,
                    url=office.url,
                    login=box.profile.login,
                    password=VAULT.seal(box.profile.password),
                    since=SINCE,
                    acknowledge=acknowledge,
                )
        yield Clinics(url, office, {box.profile.licence: box for box in boxes.values()}, given)


@dataclass
class Polls:
    clinics: Clinics
    poller: Poller

    async def of(self, licence: str) -> Ended:
        ended = await self.poller.poll(await self.clinics.number(licence))
        assert ended is not None
        return ended


@asynccontextmanager
async def polling(
    of: Clinics,
    *,
    loader: Callable[[Loader], Loads] = lambda real: real,
    brake: Callable[[], Brake] = lambda: OPEN,
    limits: Limits = PATIENT,
    **means: Any,
) -> AsyncIterator[Polls]:
    """A worker's poller in this process; `loader` may put a planted fault before the real one."""
    metrics = WorkerMetrics()
    lender = Lender("ingest", of.url, PoolLimits(2, 2), INGEST_SETTINGS, wait=metrics.pool_wait.child("ingest"))
    await lender.open()
    async with connected(of.url) as connection:
        real = Loader(Naming(key=await identity_secret(connection)))
    given = Means(lender, loader(real), metrics, Budget(64 << 20), brake, files_max=8, timeout_s=20.0)
    try:
        async with open_post_office(limits) as office:
            yield Polls(of, Poller(replace(given, **means), Primary(of.url), office, VAULT.open))
    finally:
        real.close()
        await lender.close()
