"""deploy/logs: real lines of a real server through syslog-ng into receivers that speak as Loki and Elasticsearch do."""

import asyncio
import json
import re
import shutil
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.processes import running
from tests.support import add_tenant, patient

LOGS = Path(__file__).parents[1] / "deploy" / "logs"
LABELS = {"service", "component", "level", "event"}
FOUND_BY = {"request_id", "tenant", "poll", "trace_id"}
EXTRAS = ['plain "text" \\ of a command, \u00df and a tab\t', '{"broken": ', ""]


@dataclass
class Receiver:
    """What has come in, as each of the two has it."""

    streams: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def loki(self, request: web.Request) -> web.Response:
        """As Loki's push API takes it: strict JSON, labels and metadata that are text, nanoseconds as text."""
        assert request.content_type == "application/json"
        for stream in json.loads(await request.text())["streams"]:
            assert all(isinstance(value, str) for value in stream["stream"].values())
            for moment, line, metadata in stream["values"]:
                assert re.fullmatch("[0-9]{19}", moment)
                assert isinstance(line, str)
                assert all(isinstance(value, str) for value in metadata.values())
            self.streams.append(stream)
        self.news.set()
        return web.Response(status=204)

    async def bulk(self, request: web.Request) -> web.Response:
        """As Elasticsearch's bulk API takes it: an action and a document, each on a line, and a line's end after the last."""
        assert request.content_type == "application/x-ndjson"
        text = await request.text()
        assert text.endswith("\n")
        lines = [json.loads(line) for line in text.removesuffix("\n").split("\n")]
        assert all(action == {"create": {"_index": "sluice"}} for action in lines[::2])
        self.documents += lines[1::2]
        self.news.set()
        return web.json_response({"errors": False, "items": [{"create": {"status": 201}}] * (len(lines) // 2)})

    async def seen(self, number: int) -> None:
        async with asyncio.timeout(30):
            while len(self.streams) < number or len(self.documents) < number:
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Receiver, str]]:
    receiver, app = Receiver(), web.Application()
    app.router.add_post("/loki/api/v1/push", receiver.loki)
    app.router.add_post("/_bulk", receiver.bulk)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield receiver, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def syslog_ng(folder: Path, url: str) -> AsyncIterator[None]:
    """The sample, with nothing changed but the three places that it says."""
    text = (LOGS / "syslog-ng.conf").read_text()
    for old, new in (("/var/log/sluice", str(folder)), ("http://loki:3100", url), ("http://elasticsearch:9200", url)):
        assert text.count(old) >= 1
        text = text.replace(f'("{old}', f'("{new}')
    config = folder / "syslog-ng.conf"
    config.write_text(text)
    own = [f"--persist-file={folder}/persist", f"--pidfile={folder}/pid", f"--control={folder}/control"]
    process = await asyncio.create_subprocess_exec(
        "syslog-ng", "--foreground", "--no-caps", "--cfgfile", config, *own, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.skipif(
    shutil.which("syslog-ng") is None, reason="syslog-ng is not installed (Debian: syslog-ng-core, syslog-ng-mod-http)"
)
async def test_syslog_ng(database: str, tmp_path: Path) -> None:
    """Every line reaches Loki with few labels and its ids beside it, at its own time, and Elasticsearch as it was written."""
    key = await add_tenant(database, "one", [patient("p")])
    async with receiving() as (receiver, url), syslog_ng(tmp_path, url):
        async with running("serve", database_url=database, access_log="all") as server:
            await ask(await server.url(), key)
            await server.end()
        written = [line for line in server.err if line.startswith("{")]
        (tmp_path / "api.log").write_text("\n".join([*written, *EXTRAS, ""]))
        await receiver.seen(len(written) + 2)
    lines = [json.loads(line) for line in written]
    assert sum(line in receiver.documents for line in lines) == len(lines)
    others = [line for line in receiver.documents if line["event"] == "text.written"]
    assert [line["text"] for line in others] == EXTRAS[:2]
    assert all({"timestamp", *LABELS} <= set(line) for line in others)
    by_line = {stream["values"][0][1]: stream for stream in receiver.streams}
    for text, line in zip(written, lines, strict=True):
        stream = by_line[text]
        assert stream["stream"] == {name: line[name] for name in LABELS}
        moment, _, metadata = stream["values"][0]
        assert int(moment) // 1000 == microseconds(line["timestamp"])
        assert metadata["request_id"] == line.get("request_id", "")
        assert set(metadata) == FOUND_BY
    answered = [line for line in lines if line["event"] == "request.answered"]
    assert {"mine-1", "mine-2"} <= {line["request_id"] for line in answered}


async def ask(url: str, key: str) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        for number in (1, 2):
            headers = {"Authorization": f"Bearer {key}", "X-Request-ID": f"mine-{number}"}
            async with session.get(f"{url}/patients/p", headers=headers) as response:
                assert response.status == 200


def microseconds(timestamp: str) -> int:
    moment = datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000)


def test_alloy() -> None:
    """The sample for Alloy, which nobody has run, names the same labels and ids, and says that it was not run."""
    text = (LOGS / "alloy.alloy").read_text()
    assert "NOT RUN" in text
    assert text.count("{") == text.count("}")
    blocks = {
        name: set(re.findall(r'"(\w+)"\s*=\s*""', body))
        for name, body in re.findall(r"stage\.(\w+) \{(.*?)\n  \}", text, re.DOTALL)
    }
    assert blocks["labels"] == LABELS
    assert blocks["structured_metadata"] == FOUND_BY
    assert blocks["json"] == LABELS | FOUND_BY | {"timestamp"}


def test_vector() -> None:
    """The sample for Vector, which nobody has run, is TOML whose parts lead to each other, and says that it was not run."""
    text = (LOGS / "vector.toml").read_text()
    assert "NOT RUN" in text
    parts = tomllib.loads(text)
    assert parts["transforms"]["lines"]["inputs"] == list(parts["sources"])
    assert parts["sinks"]["elasticsearch"]["inputs"] == list(parts["transforms"])
    assert parts["sinks"]["elasticsearch"]["bulk"] == {"action": "create", "index": "sluice"}


def test_template() -> None:
    """The template for Elasticsearch is JSON, and what it says of single fields are fields that lines have."""
    mappings = json.loads((LOGS / "elasticsearch-template.json").read_text())["template"]["mappings"]
    assert mappings["properties"]["timestamp"] == {"type": "date"}
    sources = "".join(path.read_text() for folder in ("app", "storage", "base") for path in Path(folder).rglob("*.py"))
    assert all(f'"{name}"' in sources or f"{name}=" in sources for name in mappings["properties"])
