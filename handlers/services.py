"""What a handler can reach. Made in app/main.py, kept under one typed key."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from base.config import Config
from handlers.cursors import Cursors
from handlers.tokens import Tokens
from metrics.accumulators import Snapshot
from metrics.catalog import Metrics
from storage.asks import Ask
from storage.connecting.servers import Storage
from storage.keys import KeyRing
from tenants.actor import TenantActor
from tenants.deadlines import Deadlines
from tenants.direct import DirectLine
from tenants.registry import TenantRegistry


@dataclass(frozen=True)
class Services:
    """`gather` gives the metrics of all processes of this server; `metrics_open`: no key is needed, as only we can ask.

    `tokens`: None where no issuer of them is configured.
    """

    config: Config
    metrics: Metrics
    storage: Storage
    keys: KeyRing
    tokens: Tokens | None
    cursors: Cursors
    deadlines: Deadlines
    direct: DirectLine
    registry: TenantRegistry
    gather: Callable[[], Awaitable[Snapshot]]
    metrics_open: bool

    def submit(self, actor: TenantActor | None, ask: Ask) -> None:
        """Raises TenantBusy or ServerBusy: a full channel never spills to direct, nor the other way."""
        if actor is None:
            self.direct.submit(ask)
        else:
            self.registry.submit(actor, ask)


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
