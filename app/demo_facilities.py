"""The demo's facilities: one of each tenant, with claims of the people that were imported for it."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg
import msgspec
from rich.console import Console

from app import facilities as operators
from base.config import Config
from ingestion.credentials import Vault
from r4.resource import made
from simulator.claims import DUBAI, FacilityProfile, Live, facilities, generate
from simulator.people import PLACEHOLDERS
from simulator.post_office import Box, Office
from storage.facilities import list_facilities, set_mailbox
from storage.resources import Batch, upsert
from storage.tenancy import tenant_id_of

_FIRST_NUMBER = 9001
"""Of their licences: beyond those of `sluice post-office`, which may be registered here, too."""
_HISTORY = 200
"""Claims of each facility, of the 90 days before it was registered: the same ones, however often the demo is started."""
_A_FILE = 20
_AT_ONCE = 3
"""Remittances that wait at the start; the others come one by one."""
_REMITTANCE_EVERY_S = 2.0
_IMPORTED = """
    SELECT body FROM fhir.resource WHERE tenant_id = $1 AND type = 'Patient' AND id LIKE 'pat-%' AND NOT deleted ORDER BY id
"""
notices = Console(stderr=True, soft_wrap=True)


async def registered(
    connection: asyncpg.Connection, config: Config, vault: Vault, office: Office, tenants: Sequence[str]
) -> list[tuple[Box, Live]]:
    """Each one's box, filled, and what makes its new files. A facility is new, or gets the new address of its post office."""
    found = []
    for profile, tenant in zip(facilities(len(tenants), first=_FIRST_NUMBER), tenants, strict=True):
        registered_at = await _register(connection, vault, office.url, profile, tenant)
        if registered_at is None:
            notices.print(f"{profile.licence} is another tenant's, so {tenant} gets no claims", highlight=False)
            continue
        tenant_id = await tenant_id_of(connection, tenant)
        await _name(connection, config, tenant_id, profile, tenant)
        people = await _people(connection, tenant_id)
        box = office.boxes[profile.login] = Box(profile)
        _fill(box, people, registered_at)
        now = datetime.now(DUBAI)
        # Another seed each time, so that no file and no claim has an id that an earlier demo has given.
        found.append((box, Live(int(now.timestamp()), profile, since=now, known=itertools.cycle(people))))
    return found


async def _register(
    connection: asyncpg.Connection, vault: Vault, url: str, profile: FacilityProfile, tenant: str
) -> datetime | None:
    """When it was registered first; None where the licence is another tenant's."""
    there = {row["licence"]: row for row in await list_facilities(connection)}
    if (facility := there.get(profile.licence)) is None:
        await operators.add(
            connection,
            vault,
            tenant=tenant,
            licence=profile.licence,
            url=url,
            login=profile.login,
            password=profile.password,
            since=None,
            acknowledge=True,
        )
        return await _register(connection, vault, url, profile, tenant)
    if facility["tenant"] != tenant:
        return None
    sealed = vault.seal(profile.password)
    await set_mailbox(connection, profile.licence, url=url, login=profile.login, password=sealed)
    at: datetime = facility["created_at"]
    return at


async def _name(connection: asyncpg.Connection, config: Config, tenant_id: int, profile: FacilityProfile, tenant: str) -> None:
    """Claims hold licences alone: what is known of a facility is in what was imported."""
    members = {
        "identifier": [{"system": f"{config.identifier_base}/sid/dha-facility", "value": profile.licence}],
        "active": True,
        "name": f"{tenant.replace('-', ' ').title()}, day clinic",
    }
    async with connection.transaction():
        await upsert(connection, tenant_id, Batch([made("Organization", "org-day-clinic", members)]), datetime.now(UTC))


async def _people(connection: asyncpg.Connection, tenant_id: int) -> list[tuple[str, str]]:
    """Emirates IDs and MRNs of those who were imported and have one: by it their claims find them."""
    found = []
    for row in await connection.fetch(_IMPORTED, tenant_id):
        identifiers = msgspec.json.decode(row["body"])["identifier"]
        by_type = {each["type"]["coding"][0]["code"]: each["value"] for each in identifiers}
        found.append((by_type["NI"], by_type["MR"]))
    return [(emirates_id, mrn) for emirates_id, mrn in found if emirates_id not in PLACEHOLDERS]


def _fill(box: Box, people: Sequence[tuple[str, str]], registered_at: datetime) -> None:
    """Submissions are there at once, for a post office is not searched again for what lies back; remittances trickle in."""
    midnight = registered_at.astimezone(DUBAI).replace(hour=0, minute=0, second=0, microsecond=0)
    known = itertools.cycle(people)
    remittances = 0
    for file in generate(1, box.profile, claims=_HISTORY, claims_per_file=_A_FILE, end=midnight, known=known):
        remittances += file.kind == "remittance"
        waits = file.kind == "remittance" and remittances > _AT_ONCE
        box.add(file, after_s=(remittances - _AT_ONCE) * _REMITTANCE_EVERY_S if waits else 0)
