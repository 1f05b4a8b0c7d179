"""Whether the settings can be used, are meant, and go together."""

import difflib
import stat
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from app.checking.findings import Finding, Findings, bad_or, failure, some, warning
from base.config import Config, ConfigError, env_name, is_loopback
from reporting.planning import wishes

if TYPE_CHECKING:
    from app.checking.scene import Scene

_SECRETS = {env_name(each.name): each.metadata["secret"] for each in fields(Config)}
"""Every setting, and whether it may come from a file."""
_KNOWN = {*_SECRETS, *(f"{name}_FILE" for name, secret in _SECRETS.items() if secret), "SLUICE_WORKERS_DIR"}
_TLS = {"require", "verify-ca", "verify-full"}


def usable(environment: Mapping[str, str]) -> tuple[Config, dict[str, str]]:
    """The config of what can be used, and why the rest cannot, by variable."""
    unusable: dict[str, str] = {}
    for name in _SECRETS:
        try:
            Config.from_mapping(_alone(environment, name))
        except ConfigError as error:
            unusable[name] = str(error)
    bad = {variable for name in unusable for variable in (name, f"{name}_FILE")}
    return Config.from_mapping({name: text for name, text in environment.items() if name not in bad}), unusable


def _alone(environment: Mapping[str, str], name: str) -> dict[str, str]:
    return {variable: environment[variable] for variable in (name, f"{name}_FILE") if variable in environment}


async def parsing(scene: "Scene") -> Findings:
    bad = [failure(words, f"correct {name}, or unset it") for name, words in scene.unusable.items()]
    given = [name for name, text in scene.environment.items() if name.startswith("SLUICE_") and text]
    bad += [finding for name in sorted(given) if (finding := _misnamed(name)) is not None]
    set_ = sum(bool(_alone(scene.environment, name)) for name in _SECRETS)
    others = [name for name in given if name not in _KNOWN]
    return bad_or(bad, f"{set_} of {len(_SECRETS)} are set" + (f"; not ours: {some(others)}" if others else ""))


def _misnamed(name: str) -> Finding | None:
    """Other programs of the house may have names of their own; one that is nearly ours is most likely a slip."""
    if name in _KNOWN:
        return None
    plain = name.removesuffix("_FILE")
    if plain in _SECRETS:
        return warning(f"{name} has no effect: only secrets are read from files", f"set {plain}")
    near = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.85)
    return warning(f"{name} is no setting, and has no effect", f"is {near[0]} meant?") if near else None


async def secret_files(scene: "Scene") -> Findings:
    """Files that hold secrets; one that cannot be read is told of with the settings."""
    files = {name: scene.environment[name] for name in sorted(_KNOWN) if name.endswith("_FILE") and scene.environment.get(name)}
    bad = []
    for name, path in files.items():
        if scene.environment.get(plain := name.removesuffix("_FILE")):
            bad.append(warning(f"{name} and {plain} are both set; the file counts", "unset one of them"))
        bad += _open_to_all(name, Path(path))
    return bad_or(bad, f"{len(files)} files, closed to others" if files else "none is named")


def _open_to_all(name: str, path: Path) -> list[Finding]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return []
    if not mode & stat.S_IRWXO:
        return []
    return [warning(f"{name}: every user of this machine may get at {path} (mode {mode:04o})", f"chmod 600 {path}")]


async def together(scene: "Scene") -> Findings:
    config = scene.config
    bad = [warning(found, remedy) for holds, found, remedy in CONTRADICTIONS if holds(config)]
    bad += [
        warning(
            f"SLUICE_VIEW_FRESHNESS_S: {wish.freshness_s:g} s has no effect on {name}, whose interval is {wish.interval_s:g} s",
            "lower the freshness, or leave it out",
        )
        for name, wish in wishes(config).items()
        if wish.freshness_s is not None and not wish.wants_fresh
    ]
    return bad_or(bad, "none contradicts another")


def _in_the_clear(config: Config) -> bool:
    return not is_loopback(config.host) and not config.base_url.startswith("https://")


def _without_tls(config: Config) -> bool:
    urls = (config.database_url, config.ingest_database_url, config.report_database_url, *config.replica_url)
    return any(map(_crosses_bare, urls))


def _crosses_bare(url: str) -> bool:
    """Whether a network is crossed without TLS, or with one that a stranger may switch off: `prefer` is the default."""
    try:
        parts = urlsplit(url)
        hosts = [host.rpartition("@")[2] for host in parts.netloc.rpartition("@")[2].split(",")]
        mode = parse_qs(parts.query).get("sslmode", ["prefer"])[0]
    except ValueError:
        return False
    names = [urlsplit(f"//{host}").hostname or "" for host in hosts]
    return mode not in _TLS and any(name and not is_loopback(name) for name in names)


def _is_default(config: Config, name: str) -> bool:
    return bool(getattr(config, name) == getattr(replace(Config(), data_dir=config.data_dir), name))


CONTRADICTIONS: tuple[tuple[Callable[[Config], bool], str, str], ...] = (
    (
        _in_the_clear,
        "SLUICE_HOST is open to the network, and SLUICE_BASE_URL is not https: keys and records cross it in the clear",
        "put a proxy with TLS in front, and set SLUICE_BASE_URL=https://… to its address",
    ),
    (
        lambda config: not is_loopback(config.host) and config.base_url == replace(config, base_url="").base_url,
        "SLUICE_BASE_URL is unset: links that answers hold lead to this machine's own address",
        "set SLUICE_BASE_URL to the address that clients use",
    ),
    (
        lambda config: bool(config.database_url) and not config.secret,
        "SLUICE_SECRET is unset: `sluice worker` does not start, and `sluice facility add` cannot seal a password",
        "set it (or SLUICE_SECRET_FILE) to the same text wherever Sluice runs; `openssl rand -hex 32` makes one",
    ),
    (
        lambda config: 0 < len(config.secret) < 16,
        "SLUICE_SECRET is short: facilities' passwords are sealed with it",
        "take a random one, as `openssl rand -hex 32` makes it, and give the facilities their passwords anew",
    ),
    (
        lambda config: (
            not config.database_url and bool(config.replica_url or config.ingest_database_url or config.report_database_url)
        ),
        "SLUICE_DATABASE_URL is unset, so the embedded PostgreSQL is used, and another URL leads elsewhere",
        "set SLUICE_DATABASE_URL, or unset the others",
    ),
    (
        _without_tls,
        "a database's URL crosses the network without TLS: records and passwords in the clear",
        "add ?sslmode=verify-full to the URL, and let the server have a certificate",
    ),
    (
        lambda config: config.queue_size > config.queue_total,
        "SLUICE_QUEUE_SIZE is above SLUICE_QUEUE_TOTAL: one channel may keep all others from waiting",
        "lower SLUICE_QUEUE_SIZE; 256 of 8192 is the default",
    ),
    (
        lambda config: config.pool_acquire_s > config.deadline_s and not _is_default(config, "pool_acquire_s"),
        "SLUICE_POOL_ACQUIRE_S is above SLUICE_DEADLINE_S: a request is given up before its wait ends",
        "lower SLUICE_POOL_ACQUIRE_S, or raise the deadline",
    ),
    (
        lambda config: config.ingest_timeout_s > config.poll_timeout_s,
        "SLUICE_INGEST_TIMEOUT_S is above SLUICE_POLL_TIMEOUT_S: a poll ends before its longest statement",
        "raise SLUICE_POLL_TIMEOUT_S",
    ),
    (
        lambda config: config.poll_interval_s < config.poll_tick_s,
        "SLUICE_POLL_INTERVAL_S is below SLUICE_POLL_TICK_S: facilities are polled once a tick at most",
        "lower SLUICE_POLL_TICK_S as well",
    ),
    (
        lambda config: not config.api_metrics_url and not _is_default(config, "throttle_pool_wait_s"),
        "SLUICE_THROTTLE_POOL_WAIT_S has no effect without SLUICE_API_METRICS_URL",
        "set SLUICE_API_METRICS_URL to the API's /metrics",
    ),
    (
        lambda config: not config.jwt_issuers and (bool(config.jwt_audience) or not _is_default(config, "jwt_tenant_claim")),
        "SLUICE_JWT_AUDIENCE or SLUICE_JWT_TENANT_CLAIM has no effect without SLUICE_JWT_ISSUERS",
        "set SLUICE_JWT_ISSUERS, or unset the others",
    ),
    (
        lambda config: config.channels == "off" and not _is_default(config, "control_share"),
        "SLUICE_CONTROL_SHARE has no effect with SLUICE_CHANNELS=off",
        "unset one of them",
    ),
)
"""When it holds; what is wrong; what to do."""
