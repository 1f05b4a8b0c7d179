"""What tests of real processes share: the `sluice` command, run to its end or as a server, and what a scrape says."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from base.config import env_name

T = TypeVar("T")
SLUICE = Path(sys.executable).parent / "sluice"
LIMIT_S = 40.0


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


def environment(**settings: Any) -> dict[str, str]:
    """Ours without its `SLUICE_*`; `settings` are named as in Config, and other variables in capitals."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    return kept | {name if name.isupper() else env_name(name): str(value) for name, value in settings.items()}


async def sluice(*words: Any, **settings: Any) -> Done:
    """Runs the command to its end."""
    process = await _start(words, settings)
    try:
        async with asyncio.timeout(LIMIT_S):
            out, err = await process.communicate()
    finally:
        await _ended(process)
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


@dataclass
class Running:
    """A `sluice` process that goes on until it is told to end; its lines as they come."""

    process: asyncio.subprocess.Process
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        return self.process.pid

    async def read(self) -> None:
        """Until the process closes both streams."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        await asyncio.gather(self._follow(self.process.stdout, self.out), self._follow(self.process.stderr, self.err))

    async def _follow(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        while line := await stream.readline():
            lines.append(line.decode().rstrip("\n"))
            self._news.set()
        self._news.set()

    async def seen(self, find: Callable[[], T | None]) -> T:
        """What `find` gives when enough lines have come."""
        async with asyncio.timeout(LIMIT_S):
            while (found := find()) is None:
                assert self.process.returncode is None, self.err
                self._news.clear()
                await self._news.wait()
        return found

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.err if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    async def url(self, servers: int = 1) -> str:
        """Of the server, when it and its `servers` workers listen."""
        found = await self.seen(lambda: starts if len(starts := self.logged("server.started")) >= servers else None)
        return f"http://127.0.0.1:{found[0]['port']}"

    async def end(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(by)
        async with asyncio.timeout(LIMIT_S):
            return await self.process.wait()


@asynccontextmanager
async def running(*words: Any, **settings: Any) -> AsyncIterator[Running]:
    """The command, on a free port unless said; ended and waited for when the block is left."""
    run = Running(await _start(words, {"port": 0, **settings}))
    reading = asyncio.create_task(run.read())
    try:
        yield run
    finally:
        await _ended(run.process)
        await reading


def samples(text: str) -> dict[str, float]:
    """A scrape: the value by the series as it is written."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


def total(scrape: str, name: str, **labels: str) -> float:
    """The sum of a metric's series that carry these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    found = {series: value for series, value in samples(scrape).items() if re.match(rf"{name}(\{{|$)", series)}
    return sum(value for series, value in found.items() if all(label in series for label in wanted))


async def _start(words: tuple[Any, ...], settings: dict[str, Any]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    arguments = [str(word) for word in words]
    return await asyncio.create_subprocess_exec(SLUICE, *arguments, stdout=pipe, stderr=pipe, env=environment(**settings))


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Told, and when that does not help killed."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(LIMIT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
