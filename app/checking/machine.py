"""What this machine has for Sluice: libraries, files, ports, a disk."""

import asyncio
import errno
import re
import resource
import socket
import stat
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil

from app.checking.findings import Finding, Findings, bad_or, failure, ok, warning
from handlers.middleware import SERVER
from ingestion.credentials import KEY_FILE
from ingestion.polling.braking import pool_wait_in
from storage.connecting.pools import api_size
from storage.embedded.account import account_for

if TYPE_CHECKING:
    from app.checking.scene import Scene

_ASK_S = 2.0
_SPARE_FILES = 100  # libraries, logs, sockets of one's own
_LITTLE_BYTES = 1_000_000_000
_REQUIREMENT = re.compile(r"^([\w.-]+)(?:\[[^]]*\])?\s*([^;]*)(;.*)?$")
_SPECIFIER = re.compile(r"(>=|<=|==|<|>)\s*([\w.!+-]+)")
_HOLDS = {
    ">=": lambda have, want: have >= want,
    "<=": lambda have, want: have <= want,
    "==": lambda have, want: have == want,
    "<": lambda have, want: have < want,
    ">": lambda have, want: have > want,
}


async def versions(scene: "Scene") -> Findings:
    try:
        wanted = needed(requires("sluice") or (), tracing=scene.config.tracing == "on")
        python = metadata("sluice")["Requires-Python"]
    except PackageNotFoundError:
        return [warning("Sluice is not installed: what it needs is not known", "run `make install`")]
    bad = [finding for line in wanted if (finding := _unfit(line)) is not None]
    here = ".".join(map(str, sys.version_info[:3]))
    if not satisfies(here, python):
        bad.append(failure(f"Python {here}; needed: {python}", "make the environment anew with such a Python: make install"))
    return bad_or(bad, f"Sluice {version('sluice')}, Python {here}, {len(wanted)} libraries as asked for")


def needed(lines: Iterable[str], *, tracing: bool) -> list[str]:
    """Of all that pyproject.toml names, what runs here: no tools of developers, and what traces if it is asked for."""
    return [line for line in lines if "extra ==" not in line or (tracing and 'extra == "tracing"' in line)]


def _unfit(line: str) -> Finding | None:
    """A library that is missing or of a version that was not asked for, by a line like `aiohttp>=3.14`."""
    match = _REQUIREMENT.match(line)
    if match is None:
        return None
    name, specifiers = match[1], match[2].strip()
    try:
        here = version(name)
    except PackageNotFoundError:
        return failure(f"{name} is missing", "run `make install`")
    if satisfies(here, specifiers):
        return None
    return failure(f"{name} is {here}; needed: {specifiers}", "run `make install`")


def satisfies(here: str, specifiers: str) -> bool:
    """By numbers alone: `3.14.0b1` counts as 3.14.0, and 1.2 as 1.2.0."""
    return all(_HOLDS[sign](_numbers(here), _numbers(wanted)) for sign, wanted in _SPECIFIER.findall(specifiers))


def _numbers(text: str) -> list[int]:
    found = [int(match[0]) if (match := re.match(r"\d+", part)) else 0 for part in text.split(".")]
    while found and found[-1] == 0:
        found.pop()
    return found


async def open_files(scene: "Scene") -> Findings:
    config, (soft, hard) = scene.config, resource.getrlimit(resource.RLIMIT_NOFILE)
    servers = 1 + len(config.replica_url)
    most = servers * (api_size(config) + config.report_pool_size + 1) + config.queue_total + _SPARE_FILES
    told = f"{soft:,} may be open" if soft != resource.RLIM_INFINITY else "no limit"
    if soft == resource.RLIM_INFINITY or soft >= most:
        return [ok(f"{told}; a process of the API has {most:,} at most")]
    more = f"ulimit -n {most} (systemd: LimitNOFILE={most})"
    beyond = "" if hard == resource.RLIM_INFINITY or hard >= most else f"; the hard limit is {hard:,}, root's to raise"
    found = f"{told}; with SLUICE_QUEUE_TOTAL requests waiting there are {most:,}{beyond}"
    return [warning(found, f"{more} before `sluice serve`, or lower SLUICE_QUEUE_TOTAL")]


async def ports(scene: "Scene") -> Findings:
    config = scene.config
    asked = (
        ("sluice serve", config.host, config.port, "SLUICE_PORT"),
        ("sluice worker", config.metrics_host, config.metrics_port, "SLUICE_METRICS_PORT"),
    )
    return await asyncio.gather(*(_port(*each) for each in asked))


async def _port(command: str, host: str, port: int, setting: str) -> Finding:
    if port == 0:
        return ok(f"{command}: any port that is free")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as `serve` does
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return await _in_use(command, host, port, setting)
        place = setting.replace("PORT", "HOST") if error.errno != errno.EACCES else setting
        return failure(f"{command} cannot listen on {host}:{port}: {error.strerror}", f"correct {place}")
    return ok(f"{command}: {host}:{port} is free")


async def _in_use(command: str, host: str, port: int, setting: str) -> Finding:
    reached = "127.0.0.1" if host in {"0.0.0.0", "", "::"} else host  # noqa: S104  # only compared
    shown = f"[{reached}]" if ":" in reached else reached
    try:
        async with httpx.AsyncClient(timeout=_ASK_S, trust_env=False) as client:
            answer = await client.get(f"http://{shown}:{port}/health/live")
        ours = answer.json() == {"status": "live"} and (command != "sluice serve" or answer.headers.get("Server") == SERVER)
    except (httpx.HTTPError, ValueError):
        ours = False
    if ours:
        return ok(f"{command}: it runs, on {host}:{port}")
    return failure(f"{command}: {host}:{port} is in use by another program", f"end that, or set {setting} to another port")


async def data_folder(scene: "Scene") -> Findings:
    """With a database of one's own nothing is kept there."""
    folder = scene.home or scene.config.data_dir
    bad = _disk(scene, folder)
    if scene.home is None:
        if scene.is_embedded:
            return [
                warning(f"nothing in {folder} yet", "`sluice serve` makes a database there, `sluice demo` one with data"),
                *bad,
            ]
        return bad_or(bad, "not needed: SLUICE_DATABASE_URL is set")
    if scene.trouble:
        bad = [failure(scene.trouble, f"see {folder / 'postgres.log'}"), *bad]
    bad = [*bad, *_modes(folder)]
    return bad_or(bad, f"{folder}, {_free(folder)}")


def _modes(folder: Path) -> list[Finding]:
    owner = account_for(folder).uid
    bad = []
    for path, allowed in ((folder / "pgdata", 0o750), (folder / "password", 0o600), (folder / KEY_FILE, 0o600)):
        if not path.exists():
            continue
        found = path.stat()
        if (mode := stat.S_IMODE(found.st_mode)) & ~allowed & 0o077:
            bad.append(failure(f"{path} is open to other users (mode {mode:04o})", f"chmod {allowed:o} {path}"))
        if found.st_uid != owner:
            bad.append(failure(f"{path} belongs to another account than its folder", f"chown it to that of {folder}"))
    return bad


def _disk(scene: "Scene", folder: Path) -> list[Finding]:
    """Ingestion goes by the free share of this disk, wherever the database is."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    usage, slow = psutil.disk_usage(str(nearest)), scene.config.throttle_disk_free
    share, remedy = usage.free / usage.total, "make room there"
    if share < slow / 2:
        return [failure(f"{_free(nearest)}: ingestion stops", f"{remedy}, or lower SLUICE_THROTTLE_DISK_FREE")]
    if share < slow:
        return [warning(f"{_free(nearest)}: ingestion slows down", f"{remedy}, or lower SLUICE_THROTTLE_DISK_FREE")]
    if scene.is_embedded and usage.free < _LITTLE_BYTES:
        return [warning(_free(nearest), f"{remedy}: a new database takes 100 MB, a day's WAL up to 4 GB")]
    return []


def _free(folder: Path) -> str:
    usage = psutil.disk_usage(str(folder))
    return f"{usage.free / 1e9:.1f} GB free ({usage.free / usage.total:.0%}) on its disk"


async def api_metrics(scene: "Scene") -> Findings:
    url = scene.config.api_metrics_url
    if not url:
        return [ok("SLUICE_API_METRICS_URL is unset: ingestion does not look how long requests wait")]
    try:
        async with httpx.AsyncClient(timeout=_ASK_S, trust_env=False) as client:
            answer = await client.get(url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return [
            warning(f"SLUICE_API_METRICS_URL does not answer: {type(error).__name__}", "is the API started, and the URL right?")
        ]
    if answer.status_code in {401, 403}:
        return [
            warning("the API's /metrics asks for a key, and the worker has none", "let the API listen on a loopback address")
        ]
    if pool_wait_in(answer.text) is None:
        return [
            warning(
                f"what answers there ({answer.status_code}) is no /metrics of the API", "set it to http://HOST:PORT/metrics"
            )
        ]
    return [ok("the API's /metrics answers")]
