"""Facilities' passwords at rest."""

import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from base.config import Config, ConfigError
from ingestion.credentials import KEY_FILE, CredentialsError, Vault
from storage.embedded.account import settle

PASSWORD = "Pässwörd of the clinic"
SERVER = "postgresql://db.example/sluice"


def of_secret(secret: str) -> Vault:
    return Vault.from_config(Config(secret=secret, database_url=SERVER))


def of_file(data_dir: Path) -> Vault:
    return Vault.from_config(Config(data_dir=data_dir))


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """In an open place: pytest's folders are closed to the account that runs PostgreSQL for root."""
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        yield Path(folder) / "data"


def test_what_was_sealed_is_opened() -> None:
    """Any process with the same secret opens it; what is stored holds nothing of it, and never looks the same twice."""
    sealed = of_secret("one").seal(PASSWORD)
    assert of_secret("one").open(sealed) == PASSWORD
    assert b"clinic" not in sealed
    assert of_secret("one").seal(PASSWORD) != sealed
    assert of_secret("one").open(of_secret("one").seal("")) == ""


@pytest.mark.parametrize(
    "spoil",
    [
        lambda sealed: sealed[:-1],
        lambda sealed: sealed[1:],
        lambda sealed: b"\x02" + sealed[1:],
        lambda sealed: sealed[:20] + bytes([sealed[20] ^ 1]) + sealed[21:],
        lambda _: b"",
        lambda _: PASSWORD.encode(),
    ],
)
def test_what_is_damaged_is_not_opened(spoil: Callable[[bytes], bytes]) -> None:
    """Bytes that were changed, cut, or never sealed are refused, with words that say what may be wrong."""
    vault = of_secret("one")
    with pytest.raises(CredentialsError, match="SLUICE_SECRET differs"):
        vault.open(spoil(vault.seal(PASSWORD)))


def test_another_secret_does_not_open() -> None:
    """With another secret nothing is opened, and the error names the secret's place and nothing that is secret."""
    with pytest.raises(CredentialsError, match="SLUICE_SECRET differs") as caught:
        of_secret("fjord").open(of_secret("glacier").seal(PASSWORD))
    assert not [word for word in ("fjord", "glacier", "clinic") if word in str(caught.value)]
    assert caught.value.__cause__ is None


def test_a_shared_database_needs_a_secret() -> None:
    """Without a secret, a database of several machines is refused, for a key of this one would not do."""
    with pytest.raises(ConfigError, match="SLUICE_SECRET is not set"):
        Vault.from_config(Config(database_url=SERVER))


def test_the_key_file_is_made_once(data_dir: Path) -> None:
    """The first vault of a data folder makes its key, closed to others, and later ones open what it sealed."""
    sealed = of_file(data_dir).seal(PASSWORD)
    home, _ = settle(data_dir)
    key = home / KEY_FILE
    assert (stat.S_IMODE(key.stat().st_mode), len(key.read_bytes())) == (0o600, 32)
    assert of_file(data_dir).open(sealed) == PASSWORD
    assert sorted(path.name for path in home.iterdir()) == ["gate.lock", KEY_FILE]


def test_two_at_once_have_one_key(data_dir: Path) -> None:
    """Many that start on a new data folder at the same moment open each other's passwords."""
    with ThreadPoolExecutor(8) as pool:
        vaults = list(pool.map(lambda _: of_file(data_dir), range(8)))
    sealed = [vault.seal(PASSWORD) for vault in vaults]
    assert all(vault.open(text) == PASSWORD for vault in vaults for text in sealed)


def test_a_key_file_leaves_room_for_the_database(data_dir: Path) -> None:
    """A vault that comes before the embedded database does not make its folder look like somebody else's."""
    of_file(data_dir)
    assert "gate.lock" in {path.name for path in settle(data_dir)[0].iterdir()}


def test_half_a_key_is_refused(data_dir: Path) -> None:
    """A key file of another length is no key, and is neither used nor written over."""
    of_file(data_dir)
    key = settle(data_dir)[0] / KEY_FILE
    key.write_bytes(b"short")
    with pytest.raises(ConfigError, match=KEY_FILE):
        of_file(data_dir)
    assert key.read_bytes() == b"short"


def test_a_secret_goes_before_the_key_file(data_dir: Path) -> None:
    """With a secret set no file is made, and what a key file sealed is not opened: the error says why."""
    sealed = of_file(data_dir).seal(PASSWORD)
    with pytest.raises(CredentialsError, match="differs"):
        Vault.from_config(Config(data_dir=data_dir, secret="s")).open(sealed)
    with pytest.raises(CredentialsError, match=f"{KEY_FILE} differs"):
        of_file(data_dir).open(of_secret("s").seal(PASSWORD))
