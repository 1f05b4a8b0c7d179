"""The settings: frozen, built from a mapping, units in their names."""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

VIEWS = ("balance-amount", "remittance-advice", "claims-by-payer")
"""The report views, as routes, settings, metrics and commands name them."""


class ConfigError(Exception):
    """A setting that cannot be used; the message says which, why, and what is expected."""


def _setting(default: Any, help_text: str, parse: Callable[[str], Any], *, secret: bool = False) -> Any:
    # A secret must not be in what is printed of a config.
    return field(default=default, repr=not secret, metadata={"help": help_text, "parse": parse, "secret": secret})


def _number(low: float, high: float, of: type[int] | type[float] = float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = of(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise ValueError(f"a {'whole ' if of is int else ''}number from {low:.10g} to {high:.10g}")
        return value

    return parse


def _number_or_0(low: int, high: int) -> Callable[[str], int]:
    number = _number(low, high, int)

    def parse(text: str) -> int:
        try:
            return 0 if text.strip() == "0" else int(number(text))
        except ValueError as error:
            raise ValueError(f"0, or {error}") from None

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return text

    return parse


def _per_view(member: Callable[[str], Any]) -> Callable[[str], tuple[tuple[str, Any], ...]]:
    """`300`, or `60,claims-by-payer=900`: of all, then those that differ; pairs by the view's name, `""` for all others."""

    def parse(text: str) -> tuple[tuple[str, Any], ...]:
        parts = [part.strip().rpartition("=")[::2] for part in text.split(",")]
        try:
            found = {name.strip(): member(value.strip()) for name, value in parts}
        except ValueError as error:
            raise ValueError(f"{error}, for all or as VIEW=NUMBER, separated by commas") from None
        if len(found) < len(parts) or not set(found) <= {"", *VIEWS}:
            raise ValueError("a number for all, or VIEW=NUMBER, separated by commas, each view once: " + ", ".join(VIEWS))
        return tuple(sorted(found.items()))

    return parse


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("a URL that begins with http:// or https://")
    return text.rstrip("/")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_trustworthy(url: str) -> bool:
    """Whether keys may come from there: by https, or from this very machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is none raises
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host or "")))


def _list_of(member: Callable[[str], bool], expected: str) -> Callable[[str], tuple[str, ...]]:
    """Commas between them; what stands twice counts once, and the order stays."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(part for given in text.split(",") if (part := given.strip())))
        if not found or not all(map(member, found)):
            raise ValueError(expected)
        return found

    return parse


def _is_issuer(url: str) -> bool:
    """As OpenID Connect Discovery 1.0, 2: no query, no fragment. Kept as given, for it must equal `iss` to the letter."""
    return is_trustworthy(url) and not re.search(r"[?#@\s]", url)


def _origins(text: str) -> tuple[str, ...]:
    expected = "* alone, or origins like https://app.example, separated by commas, without a path"
    is_origin = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@*]+").fullmatch
    return ("*",) if text.strip() == "*" else _list_of(lambda origin: bool(is_origin(origin)), expected)(text.lower())


def _database_urls(text: str) -> tuple[str, ...]:
    return _list_of(
        lambda url: url.startswith(("postgresql://", "postgres://")), "URLs that begin with postgresql://, separated by commas"
    )(text)


def _default_data_dir() -> Path:
    root = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    # Root's home is closed to the user that PostgreSQL runs as, and must stay so.
    return Path("/var/lib/sluice") if hasattr(os, "geteuid") and os.geteuid() == 0 else Path(root) / "sluice"


@dataclass(frozen=True)
class Config:
    """Every setting; `SLUICE_` and the field's name in capitals is the environment variable."""

    database_url: str = _setting("", "PostgreSQL 18 or later; unset: one is started in the data folder", str, secret=True)
    replica_url: tuple[str, ...] = _setting(
        (), "replicas that reads are spread over, separated by commas", _database_urls, secret=True
    )
    replica_lag_s: float = _setting(5.0, "seconds that a replica may be behind to be read", _number(0.01, 86400.0))
    ingest_database_url: str = _setting(
        "", "ingestion's own; unset: DATABASE_URL with the role sluice_ingest", str, secret=True
    )
    report_database_url: str = _setting(
        "", "the reports' own; unset: DATABASE_URL with the role sluice_report", str, secret=True
    )
    data_dir: Path = _setting(
        None, "where the embedded PostgreSQL keeps its data; unset: ~/.local/share/sluice (root: /var/lib/sluice)", Path
    )
    host: str = _setting("127.0.0.1", "address to listen on", str)
    port: int = _setting(8080, "port to listen on; 0: any that is free", _number(0, 65535, int))
    base_url: str = _setting("", "what links are made of; unset: http://HOST:PORT", _url)
    pool_size: int = _setting(
        0,
        "connections of the API in one process, beside one that listens; 0: 2 x cores + 1, shared by --workers, 11 at least",
        _number_or_0(8, 200),
    )
    report_pool_size: int = _setting(
        5, "connections of reports in one process; one is kept open, the others come when needed", _number(1, 200, int)
    )
    report_timeout_s: float = _setting(30.0, "seconds that a report's statement may take", _number(0.05, 3600.0))
    ingest_timeout_s: float = _setting(60.0, "seconds that a statement of ingestion may take", _number(0.05, 3600.0))
    pool_acquire_s: float = _setting(10.0, "seconds that anything but a file waits for a connection", _number(0.01, 300.0))
    pool_lifetime_s: float = _setting(1800.0, "seconds after which a connection is replaced", _number(1.0, 86400.0))
    pool_idle_s: float = _setting(300.0, "seconds after which a connection that is not needed is closed", _number(1.0, 86400.0))
    pool_held_s: float = _setting(60.0, "seconds after which it is reported who holds a connection", _number(0.01, 86400.0))
    channels: str = _setting("on", "on, or off: warm-up answers 409 and everything is direct", _one_of("on", "off"))
    cooldown_s: float = _setting(600.0, "seconds that a tenant stays warm", _number(0.01, 86400.0))
    cooldown: str = _setting(
        "fixed", "fixed: counted from the last warm-up; idle: from the last request", _one_of("fixed", "idle")
    )
    control_share: float = _setting(0.05, "share of a warm tenant's requests that go direct, for comparison", _number(0.0, 1.0))
    queue_size: int = _setting(256, "requests that may wait in one channel", _number(1, 100_000, int))
    queue_total: int = _setting(8192, "requests that may wait in one process", _number(1, 1_000_000, int))
    deadline_s: float = _setting(10.0, "seconds after which a request is answered 504", _number(0.05, 300.0))
    key_ttl_s: float = _setting(5.0, "seconds for which a looked-up key is remembered", _number(0.0, 300.0))
    access_log: str = _setting(
        "sample", "which requests are logged beside errors and slow ones", _one_of("sample", "all", "off")
    )
    tracing: str = _setting(
        "off", "on: spans by OpenTelemetry, the extra `tracing`, set up by its OTEL_* variables", _one_of("off", "on")
    )
    jwt_issuers: tuple[str, ...] = _setting(
        (),
        "issuers whose bearer tokens (JWT) are taken beside keys, separated by commas; apps are told of the first",
        _list_of(_is_issuer, "issuers' https:// URLs (http:// on a loopback address only), separated by commas"),
    )
    jwt_audience: str = _setting("", "what a token's aud must name; unset: BASE_URL/fhir", str)
    jwt_tenant_claim: str = _setting("tenant", "the claim of a token that names the tenant", str)
    cors_origins: tuple[str, ...] = _setting((), "web origins whose pages may ask, separated by commas; * for all", _origins)
    secret: str = _setting("", "encrypts paging cursors; unset: one is made once in the database", str, secret=True)
    identifier_base: str = _setting(
        "https://fhir.example.ae", "what systems of identifiers that ingestion makes begin with", _url
    )
    metrics_host: str = _setting("127.0.0.1", "address of the worker's metrics", str)
    metrics_port: int = _setting(9464, "port of the worker's metrics; 0: any that is free", _number(0, 65535, int))
    poll_interval_s: float = _setting(1800.0, "seconds from one poll of a facility to its next", _number(0.1, 604800.0))
    poll_mode: str = _setting(
        "staggered",
        "staggered: 30 s between starts, or the interval by the facilities when that is less; concurrent: all that are due",
        _one_of("staggered", "concurrent"),
    )
    poll_facilities_max: int = _setting(
        5, "facilities that are polled at once, over all workers, which must agree on it", _number(1, 1000, int)
    )
    poll_timeout_s: float = _setting(300.0, "seconds that one poll may take", _number(0.1, 86400.0))
    poll_tick_s: int = _setting(60, "seconds from one look for who is due to the next", _number(1, 60, int))
    poll_heartbeat_s: float = _setting(
        60.0, "seconds of silence after which a worker's polls are another's", _number(1.0, 3600.0)
    )
    ingest_pool_size: int = _setting(
        4, "connections of one worker that load files; one is kept open, the others come when needed", _number(1, 100, int)
    )
    ingest_files_max: int = _setting(
        16, "files of a facility at once; the number adapts itself up to here", _number(1, 256, int)
    )
    ingest_mb: int = _setting(64, "MB of downloaded files that one worker holds", _number(1, 65536, int))
    api_metrics_url: str = _setting(
        "", "the API's /metrics; ingestion then slows down when requests wait for connections", _url
    )
    throttle_pool_wait_s: float = _setting(
        0.02, "mean wait of the API for a connection from which on ingestion slows down", _number(0.0001, 60.0)
    )
    throttle_replica_lag_s: float = _setting(
        10.0, "seconds that a replica is behind from which on ingestion slows down", _number(0.01, 86400.0)
    )
    throttle_cpu: float = _setting(
        0.95, "share of the machine's CPU from which on ingestion slows down; 1: never", _number(0.01, 1.0)
    )
    view_interval_s: tuple[tuple[str, float], ...] = _setting(
        (("", 60.0),),
        "seconds from one refresh of a report view to its next; 60,claims-by-payer=900",
        _per_view(_number(1, 604800)),
    )
    view_changes_min: tuple[tuple[str, int], ...] = _setting(
        (("", 1),), "changed claims below which a refresh waits, ten intervals at most", _per_view(_number(1, 10**9, int))
    )
    view_freshness_s: tuple[tuple[str, float], ...] = _setting(
        (),
        "seconds that a report view may be behind; below its interval, its changes alone are computed",
        _per_view(_number(0.1, 604800)),
    )
    throttle_disk_free: float = _setting(
        0.05,
        "free share of the data folder's disk from which on ingestion slows down; at half of it, it stops",
        _number(0.0, 1.0),
    )

    @classmethod
    def from_mapping(cls, environment: Mapping[str, str]) -> "Config":
        """Reads `SLUICE_*`, and for secrets `SLUICE_*_FILE`.

        Raises ConfigError on a value that does not parse. Unknown `SLUICE_*` names are left alone: other programs of
        the house have their own.
        """
        values = {}
        for setting in fields(cls):
            text = _text_of(environment, setting.name, secret=setting.metadata["secret"])
            if text is not None:
                values[setting.name] = _parsed(env_name(setting.name), text, setting.metadata)
        return cls(**values)

    def on_port(self, port: int) -> "Config":
        """The same on another port; a base_url that was made of the old one follows."""
        made = self.base_url == replace(self, base_url="").base_url
        return replace(self, port=port, base_url="" if made else self.base_url)

    def __post_init__(self) -> None:
        if self.data_dir is None:
            object.__setattr__(self, "data_dir", _default_data_dir())
        if not self.base_url:
            host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104  # only compared
            object.__setattr__(self, "base_url", f"http://{f'[{host}]' if ':' in host else host}:{self.port}")


def env_name(field_name: str) -> str:
    return f"SLUICE_{field_name.upper()}"


def describe() -> list[tuple[str, str, str]]:
    """(variable, default, help) of every setting, for `sluice serve --help`."""
    return [(env_name(f.name), "" if f.default in (None, ()) else str(f.default), f.metadata["help"]) for f in fields(Config)]


def _text_of(environment: Mapping[str, str], name: str, *, secret: bool) -> str | None:
    variable = env_name(name)
    if secret and (path := environment.get(f"{variable}_FILE")):
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8"  # a codec's error repeats what it read
            raise ConfigError(f"{variable}_FILE={path} cannot be read: {reason}") from None
        if not text:  # as if it were unset, it would start another database than the one that is meant
            raise ConfigError(f"{variable}_FILE={path} is empty")
        return text
    return environment.get(variable) or None


def _parsed(variable: str, text: str, metadata: Mapping[str, Any]) -> Any:
    try:
        return metadata["parse"](text)
    except ValueError as error:
        given = variable if metadata["secret"] else f"{variable}={text!r}"  # a URL holds a password
        raise ConfigError(f"{given} cannot be used; expected: {error}") from None
