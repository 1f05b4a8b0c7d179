"""A real Prometheus that scrapes servers under test, by the committed configuration with other addresses and a quick clock."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from grafana import build

GRAFANA = Path(build.__file__).parent
CONFIG = GRAFANA / "prometheus.yml"
RULES = (GRAFANA / "alerts" / "rules" / "*.yml",)

Found = TypeVar("Found")

_program = shutil.which("prometheus") and shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(not _program, reason="Prometheus is not installed (Debian's package `prometheus`)")


@dataclass
class Prometheus:
    """A running one; `url` is its own."""

    url: str
    session: aiohttp.ClientSession

    async def api(self, path: str, **parameters: str) -> Any:
        """What `/api/v1/{path}` answers: its `data`. Raises ValueError with Prometheus' own words."""
        async with self.session.get(f"{self.url}/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return answer["data"]

    async def ask(self, expression: str) -> list[dict[str, Any]]:
        """The samples of the answer now."""
        return list((await self.api("query", query=expression))["result"])

    async def scrape_again(self) -> None:
        """Waits until a scrape of each target that began from now on is in: one may be under way, so for two more."""
        before = await self._scrapes()

        async def two_more() -> bool:
            now = await self._scrapes()
            return bool(now) and all(now[target] >= before.get(target, 0) + 2 for target in now)

        await polled(two_more, within_s=30)

    async def ready(self) -> bool:
        async with self.session.get(f"{self.url}/-/ready") as response:
            return response.status == 200

    async def _scrapes(self) -> dict[str, float]:
        """How many came in, by the target; one that was never scraped is among them."""
        targets = (await self.api("targets", state="active"))["activeTargets"]
        found = await self.ask("sum by (instance) (sum_over_time(up[5m]))")
        scrapes = {target["labels"]["instance"]: 0.0 for target in targets}
        return scrapes | {sample["metric"]["instance"]: float(sample["value"][1]) for sample in found}


async def polled(look: Callable[[], Awaitable[Found]], *, within_s: float = 15.0) -> Found:
    """What `look` finds, as soon as it is something: another process gives no signal to wait for."""
    async with asyncio.timeout(within_s):
        while not (found := await look()):  # noqa: ASYNC110  # nothing of another process can be awaited
            await asyncio.sleep(0.02)
    return found


async def ran(program: str, *arguments: str, given: bytes | None = None) -> tuple[int | None, str]:
    """A program's exit code and all that it said."""
    pipe, both = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    process = await asyncio.create_subprocess_exec(program, *arguments, stdin=pipe, stdout=pipe, stderr=both)
    said, _ = await process.communicate(given)
    return process.returncode, said.decode()


def config_for(
    api: str = "", worker: str = "", *, alertmanager: str = "", rules: Sequence[Path] = RULES, interval: str | None = "500ms"
) -> str:
    """The committed configuration with these addresses (URLs; an empty one is not scraped, or told of nothing) and rules.

    It scrapes and evaluates every `interval`; None leaves the true clock.
    """
    text = CONFIG.read_text(encoding="utf-8")
    changes = {
        '["127.0.0.1:8080"]': _targets(api),
        '["127.0.0.1:9464"]': _targets(worker),
        '["127.0.0.1:9093"]': _targets(alertmanager),
        "  - alerts/rules/*.yml\n": "".join(f"  - {json.dumps(str(rule))}\n" for rule in rules),
    }
    if interval:
        changes |= {f"\n  {name}: {said}\n": f"\n  {name}: {interval}\n" for name, said in CLOCK.items()}
    for said, instead in changes.items():
        assert text.count(said) == 1, said
        text = text.replace(said, instead)
    return text


CLOCK = {"scrape_interval": "10s", "scrape_timeout": "5s", "evaluation_interval": "10s"}
"""As committed."""


def _targets(url: str) -> str:
    return json.dumps([url.removeprefix("http://")] if url else [])


@asynccontextmanager
async def scraping(folder: Path, config: str, *flags: str) -> AsyncIterator[Prometheus]:
    """A Prometheus on a free port of the loopback with this configuration, such as `config_for(server.url)`."""
    file = folder / "prometheus.yml"
    file.write_text(config, encoding="utf-8")
    options = (f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0", *flags)
    async with started(folder / "prometheus.log", "prometheus", *options) as prometheus:
        yield prometheus


@asynccontextmanager
async def started(log: Path, *command: str, **environment: str) -> AsyncIterator[Prometheus]:
    """The Prometheus that this command starts and that writes this log."""
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(*command, stdout=sink, stderr=sink, env={**os.environ, **environment})
    try:
        async with aiohttp.ClientSession() as session:
            prometheus = Prometheus(await address_of(process, log), session)
            await polled(prometheus.ready)
            yield prometheus
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def address_of(process: asyncio.subprocess.Process, log: Path) -> str:
    """It says in its log which port it was given: no port is guessed that somebody else may take meanwhile."""

    async def said() -> re.Match[str] | None:
        text = await asyncio.to_thread(log.read_text, encoding="utf-8")
        if process.returncode is not None:
            raise RuntimeError(text)
        return re.search(r'msg="Listening on" address=(\S+)', text)

    found = await polled(said)
    assert found is not None
    return f"http://{found[1]}"
