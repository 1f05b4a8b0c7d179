"""What checks look at: the settings, and the servers as they were found."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncpg

from app.checking.connecting import ERRORS, connect
from app.checking.findings import CannotExamineError
from app.checking.settings import usable
from base.config import Config
from storage.connecting.addresses import Address, servers_of
from storage.embedded import EmbeddedError, running
from storage.embedded.account import SYSTEM_PLACES
from storage.queries import load

_LOOK = load("watch.sql")["look"]
_URLS = ("SLUICE_DATABASE_URL", "SLUICE_REPLICA_URL")


@dataclass(frozen=True, slots=True)
class Seen:
    """A server as it was found; `row` is what `look` of watch.sql says, None when it is away."""

    address: Address
    row: asyncpg.Record | None = None
    error: BaseException | None = None

    @property
    def takes_writes(self) -> bool:
        return self.row is not None and not self.row["recovering"]


@dataclass(frozen=True)
class Scene:
    environment: Mapping[str, str]
    config: Config
    """Of those settings that can be used."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Why, by the variable's name."""
    processes: int = 1
    workers: int = 1
    """How many of the API and of ingestion there are or will be, on all machines."""
    home: Path | None = None
    """The embedded PostgreSQL's folder, if there is one."""
    url: str = field(default="", repr=False)
    """Of the primary; empty when there is none."""
    why: str = ""
    """There is none, in a word."""
    servers: tuple[Seen, ...] = ()
    trouble: str = ""
    """Why the embedded PostgreSQL does not start."""
    clock: Callable[[], float] = time.time
    busy_s: float = 900.0
    """A transaction may last so long: a view that is computed as a whole takes up to 15 minutes."""

    @property
    def is_embedded(self) -> bool:
        return not self.config.database_url

    @property
    def primary(self) -> Seen:
        """Raises CannotExamineError when there is none."""
        for seen in self.servers:
            if self.url and seen.address.url == self.url:
                return seen
        raise CannotExamineError(self.why)

    @asynccontextmanager
    async def connected(self, url: str = "", **settings: str) -> AsyncIterator[asyncpg.Connection]:
        """A connection that can only read, to the primary unless said. Raises what connecting does, and CannotExamineError."""
        if not (url or self.url):
            raise CannotExamineError(self.why)
        connection = await connect(url or self.url, **settings)
        try:
            yield connection
        finally:
            await connection.close(timeout=1)


@contextmanager
def at_hand(environment: Mapping[str, str], *, processes: int = 1, workers: int = 1) -> Iterator[Scene]:
    """An embedded PostgreSQL that is there is started for as long as anybody looks, as for every command; none is made."""
    config, unusable = usable(environment)
    scene = Scene(environment, config, unusable, processes, workers)
    if bad := next((name for name in _URLS if name in unusable), ""):
        yield replace(scene, why=f"{bad} cannot be used")
    elif config.database_url:
        yield scene
    elif (home := embedded_home(config.data_dir)) is None:
        yield replace(scene, why="there is no database yet")
    else:
        yield from _embedded(replace(scene, home=home))


def _embedded(scene: Scene) -> Iterator[Scene]:
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(running(scene.config.data_dir))
        except EmbeddedError as error:
            yield replace(scene, why="the embedded PostgreSQL does not start", trouble=str(error).partition("\n")[0])
        else:
            yield replace(scene, url=cluster.url)


async def look(scene: Scene) -> Scene:
    """The scene with its servers, and the primary among them: the one that takes writes on the highest timeline."""
    if scene.why:
        return scene
    addresses = servers_of(scene.config) if scene.config.database_url else []
    if not addresses:
        url = scene.url or scene.config.database_url
        addresses = [Address("", url)]
    servers = tuple(await asyncio.gather(*map(_seen, addresses)))
    able = sorted((seen for seen in servers if seen.takes_writes), key=lambda seen: -seen.row["timeline"] if seen.row else 0)
    if able:
        return replace(scene, servers=servers, url=able[0].address.url)
    lone = "it takes no writes" if any(seen.row for seen in servers) else "there is no connection to the database"
    return replace(scene, servers=servers, url="", why=lone if len(servers) == 1 else "there is no primary")


async def _seen(address: Address) -> Seen:
    try:
        connection = await connect(address.url)
        try:
            return Seen(address, await connection.fetchrow(_LOOK))
        finally:
            await connection.close(timeout=1)
    except ERRORS as error:
        return Seen(address, error=error)


def embedded_home(data_dir: Path) -> Path | None:
    """Where its data lies: there, or for root where the account that runs it can reach it. None: there is none yet."""
    home = Path(os.path.realpath(data_dir))
    key = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]  # as storage/embedded/account.py names it
    places = [home, *(parent / "sluice" / f"{home.name}-{key}" for parent in SYSTEM_PLACES)]
    try:
        return next((place for place in places if (place / "pgdata").exists()), None)
    except PermissionError:
        return home  # somebody else's: who starts it says so
