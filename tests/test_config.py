from dataclasses import fields
from pathlib import Path

import pytest

from base.config import Config, ConfigError, describe, env_name

HOME = Path("/home/of/tests")


def test_from_mapping() -> None:
    """Every setting is read from its variable, to the very value that the constructor would be given."""
    given = {
        "SLUICE_DATABASE_URL": "postgresql://one",
        "SLUICE_DATA_DIR": "/data",
        "SLUICE_HOST": "0.0.0.0",  # noqa: S104  # only read
        "SLUICE_PORT": "81",
        "SLUICE_BASE_URL": "https://fhir.example/",
        "SLUICE_POOL_SIZE": "20",
        "SLUICE_CHANNELS": "off",
        "SLUICE_COOLDOWN_S": "1.5",
        "SLUICE_COOLDOWN": "idle",
        "SLUICE_CONTROL_SHARE": "0.5",
        "SLUICE_QUEUE_SIZE": "7",
        "SLUICE_QUEUE_TOTAL": "70",
        "SLUICE_DEADLINE_S": "3",
        "SLUICE_KEY_TTL_S": "0",
        "SLUICE_ACCESS_LOG": "all",
        "SLUICE_TRACING": "on",
        "SLUICE_JWT_ISSUERS": "https://one.example/realm/, http://127.0.0.1:9000,https://one.example/realm/",
        "SLUICE_JWT_AUDIENCE": "us",
        "SLUICE_JWT_TENANT_CLAIM": "org",
        "SLUICE_CORS_ORIGINS": "https://App.example, capacitor://localhost,http://[::1]:3000",
        "SLUICE_SECRET": "s",
        "SLUICE_IDENTIFIER_BASE": "https://ids.example/",
        "SLUICE_METRICS_HOST": "0.0.0.0",  # noqa: S104
        "SLUICE_METRICS_PORT": "0",
        "SLUICE_POLL_INTERVAL_S": "60",
        "SLUICE_POLL_MODE": "concurrent",
        "SLUICE_POLL_FACILITIES_MAX": "9",
        "SLUICE_POLL_TIMEOUT_S": "20",
        "SLUICE_POLL_TICK_S": "5",
        "SLUICE_POLL_HEARTBEAT_S": "90",
        "SLUICE_INGEST_POOL_SIZE": "3",
        "SLUICE_INGEST_FILES_MAX": "8",
        "SLUICE_INGEST_MB": "32",
        "SLUICE_API_METRICS_URL": "http://127.0.0.1:8080/metrics",
        "SLUICE_THROTTLE_POOL_WAIT_S": "0.5",
        "SLUICE_THROTTLE_REPLICA_LAG_S": "3",
        "SLUICE_THROTTLE_CPU": "1",
        "SLUICE_THROTTLE_DISK_FREE": "0.2",
        "SLUICE_REPLICA_URL": "postgresql://two, postgres://three",
        "SLUICE_REPLICA_LAG_S": "2",
        "SLUICE_INGEST_DATABASE_URL": "postgresql://four",
        "SLUICE_REPORT_DATABASE_URL": "postgresql://five",
        "SLUICE_REPORT_POOL_SIZE": "6",
        "SLUICE_REPORT_TIMEOUT_S": "11",
        "SLUICE_INGEST_TIMEOUT_S": "12",
        "SLUICE_POOL_ACQUIRE_S": "3.5",
        "SLUICE_POOL_LIFETIME_S": "600",
        "SLUICE_POOL_IDLE_S": "30",
        "SLUICE_POOL_HELD_S": "5",
        "SLUICE_VIEW_INTERVAL_S": "120, claims-by-payer=900",
        "SLUICE_VIEW_CHANGES_MIN": "10",
        "SLUICE_VIEW_FRESHNESS_S": "balance-amount=1.5",
    }
    assert set(given) == {env_name(field.name) for field in fields(Config)}
    assert Config.from_mapping({**given, "SLUICE_SOMETHING_ELSE": "x", "PATH": "/bin"}) == Config(
        database_url="postgresql://one",
        data_dir=Path("/data"),
        host="0.0.0.0",  # noqa: S104
        port=81,
        base_url="https://fhir.example",
        pool_size=20,
        channels="off",
        cooldown_s=1.5,
        cooldown="idle",
        control_share=0.5,
        queue_size=7,
        queue_total=70,
        deadline_s=3.0,
        key_ttl_s=0.0,
        access_log="all",
        tracing="on",
        jwt_issuers=("https://one.example/realm/", "http://127.0.0.1:9000"),
        jwt_audience="us",
        jwt_tenant_claim="org",
        cors_origins=("https://app.example", "capacitor://localhost", "http://[::1]:3000"),
        secret="s",
        identifier_base="https://ids.example",
        metrics_host="0.0.0.0",  # noqa: S104
        metrics_port=0,
        poll_interval_s=60.0,
        poll_mode="concurrent",
        poll_facilities_max=9,
        poll_timeout_s=20.0,
        poll_tick_s=5,
        poll_heartbeat_s=90.0,
        ingest_pool_size=3,
        ingest_files_max=8,
        ingest_mb=32,
        api_metrics_url="http://127.0.0.1:8080/metrics",
        throttle_pool_wait_s=0.5,
        throttle_replica_lag_s=3.0,
        throttle_cpu=1.0,
        throttle_disk_free=0.2,
        replica_url=("postgresql://two", "postgres://three"),
        replica_lag_s=2,
        ingest_database_url="postgresql://four",
        report_database_url="postgresql://five",
        report_pool_size=6,
        report_timeout_s=11,
        ingest_timeout_s=12,
        pool_acquire_s=3.5,
        pool_lifetime_s=600,
        pool_idle_s=30,
        pool_held_s=5,
        view_interval_s=(("", 120), ("claims-by-payer", 900)),
        view_changes_min=(("", 10),),
        view_freshness_s=(("balance-amount", 1.5),),
    )


@pytest.mark.parametrize("environment", [{}, {env_name(field.name): "" for field in fields(Config)}])
def test_defaults(environment: dict[str, str]) -> None:
    """What is unset, or set to nothing, is the default that the interface promises."""
    config = Config.from_mapping(environment)
    assert config == Config()
    promised = {
        "database_url": "",
        "host": "127.0.0.1",
        "port": 8080,
        "base_url": "http://127.0.0.1:8080",
        "channels": "on",
        "cooldown_s": 600.0,
        "cooldown": "fixed",
        "control_share": 0.05,
        "queue_size": 256,
        "queue_total": 8192,
        "deadline_s": 10.0,
        "access_log": "sample",
        "jwt_issuers": (),
        "jwt_audience": "",
        "jwt_tenant_claim": "tenant",
        "cors_origins": (),
    }
    assert {name: getattr(config, name) for name in promised} == promised


@pytest.mark.parametrize(
    ("user", "data_home", "expected"),
    [
        (0, "/anything", Path("/var/lib/sluice")),
        (1000, "/anything", Path("/anything/sluice")),
        (1000, "", HOME / ".local" / "share" / "sluice"),
    ],
)
def test_data_dir(monkeypatch: pytest.MonkeyPatch, user: int, data_home: str, expected: Path) -> None:
    """The data folder is the user's own; root's lies outside of its closed home."""
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setattr(Path, "home", lambda: HOME)
    monkeypatch.setenv("XDG_DATA_HOME", data_home)
    assert Config().data_dir == expected


@pytest.mark.parametrize("name", ["database_url", "secret"])
def test_secret_file(tmp_path: Path, name: str) -> None:
    """A secret may stand in a file, without the line's end, and goes before the plain variable."""
    file = tmp_path / "secret"
    file.write_text("from the file\n")
    config = Config.from_mapping({f"{env_name(name)}_FILE": str(file), env_name(name): "plain"})
    assert getattr(config, name) == "from the file"


def test_only_secrets_have_files(tmp_path: Path) -> None:
    """A setting that is no secret is not read from a file."""
    file = tmp_path / "port"
    file.write_text("81")
    assert Config.from_mapping({"SLUICE_PORT_FILE": str(file)}) == Config()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"geheim\xff", "cannot be read: it is no UTF-8"),
        (b" \n", "is empty"),
    ],
)
def test_bad_secret_file(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """A secret's file that gives no secret is refused, and what it holds is not repeated."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        Config.from_mapping({"SLUICE_DATABASE_URL_FILE": str(file)})
    assert str(refused.value) == f"SLUICE_DATABASE_URL_FILE={file} {reason}"


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("port", ("x", "-1", "65536", "80.5"), "a whole number from 0 to 65535"),
        ("base_url", ("localhost:80", "ftp://x"), "a URL that begins with http:// or https://"),
        ("pool_size", ("7", "201", "ten"), "0, or a whole number from 8 to 200"),
        ("channels", ("ON", "true"), "one of on, off"),
        ("cooldown_s", ("0", "86401", "10m"), "a number from 0.01 to 86400"),
        ("cooldown", ("sliding",), "one of fixed, idle"),
        ("control_share", ("-0.1", "1.1", "nan", "5%"), "a number from 0 to 1"),
        ("queue_size", ("0", "100001"), "a whole number from 1 to 100000"),
        ("queue_total", ("0", "1000001"), "a whole number from 1 to 1000000"),
        ("deadline_s", ("0", "301", "inf"), "a number from 0.05 to 300"),
        ("key_ttl_s", ("-1", "301"), "a number from 0 to 300"),
        ("access_log", ("none",), "one of sample, all, off"),
        (
            "jwt_issuers",
            (
                "login.example",
                "http://login.example",
                "http://10.0.0.1",
                "https://",
                "https://x?y",
                "https://x#y",
                "https://u@x",
                "https://x:port",
                "http://[",
                "https://x y",
                "file:///keys",
                "https://ok.example,http://login.example",
                ",",
            ),
            "issuers' https:// URLs (http:// on a loopback address only), separated by commas",
        ),
        (
            "cors_origins",
            (
                "app.example",
                "https://app.example/",
                "https://a.example,*",
                "https://*.example",
                "null",
                "https://u@x",
                ",",
                "//x",
            ),
            "* alone, or origins like https://app.example, separated by commas, without a path",
        ),
    ],
)
def test_malformed(name: str, values: tuple[str, ...], expected: str) -> None:
    """A value that cannot be used is refused by one sentence: which setting, what it was, what is expected."""
    for value in values:
        with pytest.raises(ConfigError) as refused:
            Config.from_mapping({env_name(name): value})
        assert str(refused.value) == f"{env_name(name)}={value!r} cannot be used; expected: {expected}"


@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        ("127.0.0.1", "http://127.0.0.1:81"),
        ("fhir.example", "http://fhir.example:81"),
        ("0.0.0.0", "http://127.0.0.1:81"),  # noqa: S104
        ("::", "http://127.0.0.1:81"),
        ("::1", "http://[::1]:81"),
    ],
)
def test_base_url(host: str, base_url: str) -> None:
    """Unless it is said, links are made of the address that we listen on, in a form that a client can use."""
    assert Config(host=host, port=81).base_url == base_url
    assert Config(host=host, port=81, base_url="https://said").base_url == "https://said"


def test_on_port() -> None:
    """A base URL that was made of the port follows it to another one; one that was said stays."""
    assert Config(port=0).on_port(81) == Config(port=81)
    assert Config(port=0, base_url="https://said").on_port(81) == Config(port=81, base_url="https://said")


def test_every_origin() -> None:
    """A star alone stands for every origin."""
    assert Config.from_mapping({"SLUICE_CORS_ORIGINS": " * "}).cors_origins == ("*",)


@pytest.mark.parametrize(
    "issuer", ["http://localhost:1/x", "http://127.8.9.1", "http://[::1]:2", "https://login.example:8443/a/b"]
)
def test_issuers(issuer: str) -> None:
    """An issuer speaks https, or lives on this machine; its URL is kept to the letter."""
    assert Config.from_mapping({"SLUICE_JWT_ISSUERS": issuer}).jwt_issuers == (issuer,)


def test_frozen() -> None:
    """Nobody changes a setting of a running server."""
    with pytest.raises(AttributeError):
        Config().port = 81  # type: ignore[misc]


def test_printed() -> None:
    """A config that is printed or logged shows no secret."""
    assert "geheim" not in repr(Config(database_url="postgresql://u:geheim@h/d", secret="geheim"))


def test_described() -> None:
    """Every setting has a line of help, with its variable and its default."""
    described = {variable: (default, text) for variable, default, text in describe()}
    assert list(described) == [env_name(field.name) for field in fields(Config)]
    assert all(text for _, text in described.values())
    assert described["SLUICE_QUEUE_SIZE"][0] == "256"
    assert described["SLUICE_JWT_ISSUERS"][0] == ""
