"""A real Alertmanager with the committed configuration and other addresses, and whoever is told by it."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.alert_rules import ALERTS
from tests.prometheus import address_of, polled

ALERTMANAGER = ALERTS / "alertmanager.yml"

# Debian's name for it; upstream's is without the prefix.
PROGRAM = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
needs_alertmanager = pytest.mark.skipif(
    not (PROGRAM and shutil.which("amtool")),
    reason="Alertmanager is not installed (Debian's package `prometheus-alertmanager`)",
)

QUICK = {
    "group_wait: 15s": "group_wait: 500ms",
    "group_interval: 1m": "group_interval: 1s",
    "repeat_interval: 1m": "repeat_interval: 1s",
}
"""For tests that do not wait for true intervals."""


@dataclass(frozen=True)
class Told:
    """One alert of one message: to whom (`wake`, `tell`, `alive`), when by the event loop's clock, and what."""

    receiver: str
    at: float
    alert: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.alert["labels"]["alertname"])

    @property
    def status(self) -> str:
        return str(self.alert["status"])


@dataclass
class Receiver:
    """The webhooks of the configuration."""

    url: str = ""
    told: list[Told] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        message = await request.json()
        at = monotonic()
        self.told += [Told(request.match_info["receiver"], at, alert) for alert in message["alerts"]]
        self._news.set()
        return web.Response()

    def of(self, name: str, status: str = "firing") -> list[Told]:
        return [told for told in self.told if (told.name, told.status) == (name, status)]

    async def hear(self, name: str, status: str = "firing", *, within_s: float = 20.0) -> Told:
        """The first message of this alert; waits for it."""
        async with asyncio.timeout(within_s):
            while not (found := self.of(name, status)):
                self._news.clear()
                await self._news.wait()
        return found[0]


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{receiver}", receiver.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver
    finally:
        await runner.cleanup()


def config_for(receiver: Receiver | None, quick: Mapping[str, str] = QUICK) -> str:
    """The committed configuration with this receiver."""
    text = ALERTMANAGER.read_text(encoding="utf-8")
    assert text.count("http://127.0.0.1:9095/") == 3
    text = text.replace("http://127.0.0.1:9095", receiver.url if receiver else "http://127.0.0.1:9")
    for said, instead in quick.items():
        assert said in text
        text = text.replace(said, instead)
    return text


@dataclass
class Alertmanager:
    """A running one; `url` is its own."""

    url: str
    session: aiohttp.ClientSession

    async def ready(self) -> bool:
        async with self.session.get(f"{self.url}/-/ready") as response:
            return response.status == 200

    async def tell(self, alerts: Sequence[Mapping[str, str]]) -> None:
        """As Prometheus would; an alert is its labels."""
        until = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
        said = [{"labels": dict(labels), "endsAt": until} for labels in alerts]
        async with self.session.post(f"{self.url}/api/v2/alerts", json=said) as response:
            assert response.status == 200, await response.text()

    async def states(self) -> dict[str, str]:
        """`active`, `suppressed` or `unprocessed`, by the alert's name."""
        async with self.session.get(f"{self.url}/api/v2/alerts") as response:
            found = json.loads(await response.read())
        return {alert["labels"]["alertname"]: alert["status"]["state"] for alert in found}


@asynccontextmanager
async def alerting(folder: Path, config: str) -> AsyncIterator[Alertmanager]:
    """An Alertmanager on a free port of the loopback."""
    assert PROGRAM is not None
    file, log = folder / "alertmanager.yml", folder / "alertmanager.log"
    file.write_text(config, encoding="utf-8")
    options = (
        f"--config.file={file}",
        f"--storage.path={folder / 'alertmanager'}",
        "--web.listen-address=127.0.0.1:0",
        "--cluster.listen-address=",
    )
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(PROGRAM, *options, stdout=sink, stderr=sink)
    try:
        async with aiohttp.ClientSession() as session:
            manager = Alertmanager(await address_of(process, log), session)
            await polled(manager.ready)
            yield manager
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
