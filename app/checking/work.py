"""What Sluice itself keeps: tenants, keys, facilities, the search index, the report views."""

from typing import TYPE_CHECKING

from app.checking.findings import Finding, Findings, bad_or, failure, ok, some, warning
from app.checking.schema import require_migrated
from base.config import ConfigError, is_trustworthy
from ingestion.credentials import KEY_FILE, CredentialsError, Vault
from reporting.planning import Wish, wishes
from storage import views
from storage.queries import load
from storage.reindex import is_outdated
from storage.views import State

if TYPE_CHECKING:
    from app.checking.scene import Scene

_SQL = load("check.sql")
_POLLS = 3
"""So many in a row that came to nothing are worth a word."""


async def search_index(scene: "Scene") -> Findings:
    async with scene.connected() as connection:
        await require_migrated(connection)
        outdated = await is_outdated(connection)
    found = "searches may miss what an older version has stored"
    return bad_or([warning(found, "run `sluice reindex`, beside a server")] if outdated else [], "of this version")


async def report_views(scene: "Scene") -> Findings:
    async with scene.connected() as connection:
        await require_migrated(connection)
        found = await views.states(connection)
    wanted = wishes(scene.config)
    bad = [finding for state in found.values() for finding in _view(state, wanted[state.name])]
    oldest = max((state.age_s for state in found.values() if state.waiting), default=0.0)
    return bad_or(bad, f"{len(found)} kept, " + (f"at most {oldest:.0f} s behind" if oldest else "nothing waits"))


def _view(state: State, wish: Wish) -> list[Finding]:
    if state.reason:
        return [warning(f"{state.name}: its last refresh failed, {state.reason}", "docs/operations.md, “A view is stale”")]
    most_s = 2 * (wish.freshness_s if wish.wants_fresh and wish.freshness_s else wish.interval_s)
    if state.waiting >= wish.changes_min and state.age_s > most_s:
        found = f"{state.name} is {state.age_s:,.0f} s behind, {state.waiting:,} changes wait"
        return [warning(found, "does `sluice worker` run? `sluice views refresh` does its work at once")]
    return []


async def facilities(scene: "Scene") -> Findings:
    async with scene.connected() as connection:
        await require_migrated(connection)
        rows = await connection.fetch(_SQL["mailboxes"], _POLLS)
    if not rows:
        return [ok("none is registered")]
    bad = _sealed(scene, {row["licence"]: row["password"] for row in rows})
    stopped = [row["licence"] for row in rows if row["state"] == "stopped"]
    paused = [row["licence"] for row in rows if row["state"] == "paused"]
    failing = [row["licence"] for row in rows if row["state"] == "active" and row["failing"]]
    late = [row["licence"] for row in rows if row["state"] == "active" and row["due_s"] > 2 * scene.config.poll_interval_s]
    bare = [row["licence"] for row in rows if not is_trustworthy(row["url"])]
    told = (
        (
            stopped,
            "are stopped, their login was refused",
            "get it right at the post office, then `sluice facility resume LICENCE`",
        ),
        (paused, "are paused", "`sluice facility resume LICENCE` polls again"),
        (failing, f"came to nothing {_POLLS} times in a row", "`sluice ingest status` and `sluice ingest errors` say why"),
        (late, "are long overdue", "does `sluice worker` run?"),
        (bare, "have a post office without TLS: passwords in the clear", "its address must begin with https://"),
    )
    bad += [warning(f"{some(names)}: {what}", remedy) for names, what, remedy in told if names]
    return bad_or(bad, f"{len(rows)} are polled, their passwords can be opened")


def _sealed(scene: "Scene", passwords: dict[str, bytes]) -> list[Finding]:
    """Whether the secret of this machine opens them; none is made here when there is none."""
    if scene.is_embedded and not scene.config.secret and scene.home is not None and not (scene.home / KEY_FILE).exists():
        return [failure(f"{scene.home / KEY_FILE} is missing: no password can be opened", "put it back from a copy")]
    try:
        vault = Vault.from_config(scene.config)
    except ConfigError:
        return [failure("SLUICE_SECRET is unset: no password can be opened", "set it to the text that they were sealed with")]
    shut = [licence for licence, sealed in passwords.items() if not _opens(vault, sealed)]
    found = f"{some(shut)}: the password cannot be opened, it was sealed with another SLUICE_SECRET"
    return [failure(found, "put the former one back, as it was when they were added")] if shut else []


def _opens(vault: Vault, sealed: bytes) -> bool:
    try:
        vault.open(sealed)
    except CredentialsError:
        return False
    return True


async def keys(scene: "Scene") -> Findings:
    async with scene.connected() as connection:
        await require_migrated(connection)
        (row,) = await connection.fetch(_SQL["keys"])
        keyless = [each["name"] for each in await connection.fetch(_SQL["keyless"])]
    bad = []
    if not row["tenants"]:
        bad.append(warning("there is no tenant", "`sluice tenant create NAME`, then `sluice key create NAME`"))
    if keyless and not scene.config.jwt_issuers:
        found = f"{some(keyless)}: no key, so nobody can ask"
        bad.append(warning(found, f"`sluice key create {keyless[0]}`"))
    if not row["operators"]:
        bad.append(warning("there is no operator's key, which the console asks for", "`sluice key create --operator`"))
    return bad_or(bad, f"{row['tenants']} tenants, {row['keys']} keys, {row['operators']} of them an operator's")
