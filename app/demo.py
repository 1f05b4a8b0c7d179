"""`sluice demo`: three tenants with generated data, one of them warm, claims that come in, and requests to paste."""

import asyncio
import contextlib
import json
import os
import shlex
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
from aiohttp import web
from rich.console import Console

from app.database import database
from app.demo_claims import Place, claims_coming_in
from app.importing import import_with_bar
from app.reindexing import reindex_with_bar
from app.serving import on_free_port, serve
from base import log
from base.config import Config, ConfigError
from base.identity import key_hash
from handlers.services import SERVICES
from ingestion.credentials import Vault
from simulator.people import resources
from storage.migrate import migrate
from storage.reindex import is_outdated
from storage.tenancy import create_key, create_tenant, list_tenants
from tenants.actor import Tenant

TENANTS = {"harbour-hospital": 1, "oasis-clinics": 2, "palm-polyclinic": 3}
"""Names, and the seed of each one's people."""

WARM = "harbour-hospital"
_SIZE = {"patients": 600, "practitioners": 40, "encounters": 1500}
_SCOPES = ("read", "warm", "report", "operate")
_ANSWERED = """
    SELECT claim.to_id FROM fhir.reference claim JOIN fhir.reference answer ON answer.tenant_id = claim.tenant_id
        AND answer.to_type = 'Claim' AND answer.to_id = claim.id AND answer.type = 'ClaimResponse'
    WHERE claim.tenant_id = $1 AND claim.type = 'Claim' AND claim.to_type = 'Encounter' AND claim.to_id LIKE 'enc-%'
    ORDER BY claim.to_id LIMIT 1
"""
"""An imported encounter whose claim has its answer: its review has the most to show."""
_SEARCH = "Encounter?patient.name=al&_include=Encounter:patient&_count=2&_pretty=true"
notices = Console(stderr=True, soft_wrap=True)


def demo(given: Config) -> None:
    """Prepares what is missing, then serves; a second demo of the same data folder finds everything there."""
    log.configure("api")
    with database(on_free_port(given)) as config, contextlib.ExitStack() as beside:
        with_claims = _can_take_claims(given)
        keys = asyncio.run(_prepare(config))

        async def ready(app: web.Application, _port: int) -> None:
            services = app[SERVICES]
            async with services.storage.latest() as connection:
                tenant_id = (await connection.fetch("SELECT tenant_id FROM ops.tenant WHERE name = $1", WARM))[0][0]
                encounter = (await connection.fetch(_ANSWERED, tenant_id))[0][0]
            await services.registry.warm_up(Tenant(tenant_id, WARM, exclusive=False))
            print(_welcome(config, keys, encounter, with_claims=with_claims), flush=True)
            if with_claims:
                metrics_url = f"{replace(config, base_url='').base_url}/metrics"
                place = Place(tuple(TENANTS), WARM, keys[WARM], config.base_url, metrics_url)
                beside.enter_context(claims_coming_in(place))

        serve(config, ready=ready)


def _can_take_claims(given: Config) -> bool:
    """With a database of one's own, passwords of facilities need a secret."""
    try:
        Vault.from_config(given)
    except ConfigError as error:
        notices.print(f"no claims come in: {error}", style="yellow", markup=False, highlight=False)
        return False
    return True


async def _prepare(config: Config) -> dict[str, str]:
    await migrate(config.database_url)
    connection = await asyncpg.connect(config.database_url)
    try:
        there = {row["name"]: row["tenant_id"] for row in await list_tenants(connection)}
        for name, seed in TENANTS.items():
            tenant_id = there.get(name) or await create_tenant(connection, name)
            if not await connection.fetchval("SELECT EXISTS (SELECT FROM fhir.resource WHERE tenant_id = $1)", tenant_id):
                await _fill(config.database_url, tenant_id, name, seed)
        if await is_outdated(connection):  # a demo of an older version left its data here
            await reindex_with_bar(connection, None, title="index")
        return await _keys(connection, config.data_dir / "demo-keys.json")
    finally:
        await connection.close()


async def _fill(url: str, tenant_id: int, name: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.ndjson"
        with path.open("wb") as file:
            file.writelines(line + b"\n" for line in resources(seed, **_SIZE, today=datetime.now(UTC).date()))
        await import_with_bar(url, tenant_id, [path], strict=True, title=name)


async def _keys(connection: asyncpg.Connection, path: Path) -> dict[str, str]:
    """Kept in a file that only its owner reads, so that what was pasted yesterday works today: these are a demo's keys."""
    known: dict[str, str] = {}
    if path.is_file():
        with contextlib.suppress(ValueError):  # one that was cut off is written anew
            known = json.loads(path.read_text(encoding="utf-8"))
    for name in TENANTS:
        if name not in known or not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM ops.key_owner($1) WHERE tenant = $2)", key_hash(known[name]), name
        ):
            known[name] = await create_key(connection, name, _SCOPES)
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(known, file)
    return known


def _welcome(config: Config, keys: dict[str, str], encounter: str, *, with_claims: bool) -> str:
    base_url, warm, cold = config.base_url, keys[WARM], keys["oasis-clinics"]
    share = f"{config.control_share:.0%} go direct, for comparison"
    requests = [
        (
            f"a patient, through the warm tenant's channel ({share})",
            f"-i -H 'Authorization: Bearer {warm}' {base_url}/patients/pat-1-1",
        ),
        (
            "the same, forced to go direct",
            f"-i -H 'Authorization: Bearer {warm}' -H 'X-Sluice-Force: direct' {base_url}/patients/pat-1-1",
        ),
        (
            "a search: the newest encounters of patients by their name, with their patients",
            f"-H 'Authorization: Bearer {warm}' '{base_url}/fhir/{_SEARCH}'",
        ),
        (
            "a review: an encounter with all around it, and its money",
            f"-H 'Authorization: Bearer {warm}' {base_url}/reviews/{encounter}",
        ),
        ("warm up a cold tenant", f"-X POST -H 'Authorization: Bearer {cold}' {base_url}/warm-up"),
    ]
    tenants = "\n".join(f"  {name:<18}{'warm' if name == WARM else 'cold':<6}{key}" for name, key in keys.items())
    lines = "\n".join(f"# {title}\ncurl -s {request}" for title, request in requests)
    if with_claims:
        lines += f"\n# the facilities whose claims come in; a request that shows one follows\n{_status_command()}"
    return (
        f"\nSluice is up at {base_url}. Tenants and their keys:\n\n{tenants}\n\n"
        f"FHIR base {base_url}/fhir    what it can do {base_url}/fhir/metadata\n"
        f"metrics {base_url}/metrics    stop with Ctrl-C\n"
        f"console {base_url}/console    any of these keys logs in\n\nTo paste:\n\n{lines}\n"
    )


def _status_command() -> str:
    """As it works in another terminal, in the same folder."""
    beside = Path(sys.executable).with_name("sluice")
    command = shlex.quote(str(beside) if beside.exists() else "sluice")
    folder = os.environ.get("SLUICE_DATA_DIR")
    return f"{f'SLUICE_DATA_DIR={shlex.quote(str(Path(folder).absolute()))} ' if folder else ''}{command} ingest status"
