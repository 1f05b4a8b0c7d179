"""Facilities' passwords, encrypted at rest: with a key made of SLUICE_SECRET, else with one that lies in the data folder."""

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from base.config import Config, ConfigError
from storage.embedded.account import GATE, Account, explained, locked, open_ours, settle

KEY_FILE = "secret.key"
_KEY_BYTES = 32
_NONCE_BYTES = 12
_PURPOSE = b"sluice: passwords of facilities"
_FORM = b"\x01"
"""Before each sealed text, should there be another form one day; authenticated with it."""


class CredentialsError(ConfigError):
    """A sealed password that this key does not open."""


class Vault:
    def __init__(self, secret: bytes, source: str) -> None:
        """`source`: what the secret is called when an operator is told of it."""
        # The secret makes other keys too: none of them may tell of another.
        key = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=_PURPOSE).derive(secret)
        self._cipher = AESGCM(key)
        self._source = source

    @classmethod
    def from_config(cls, config: Config) -> "Vault":
        """Takes the config as given, without the embedded database's address in it. Makes the key file when there is none.

        Raises ConfigError, or EmbeddedError for a data folder that cannot be used.
        """
        if config.secret:
            return cls(config.secret.encode(), "SLUICE_SECRET")
        if config.database_url:
            raise ConfigError(
                "SLUICE_SECRET is not set: facilities' passwords are encrypted with it. Set it (or SLUICE_SECRET_FILE) to the "
                "same random text wherever Sluice runs with this database, for instance to what `openssl rand -hex 32` prints"
            )
        key, path = _key_of(config.data_dir)
        return cls(key, str(path))

    def seal(self, text: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _FORM + nonce + self._cipher.encrypt(nonce, text.encode(), _FORM)

    def open(self, sealed: bytes) -> str:
        """Raises CredentialsError."""
        form, nonce, text = sealed[:1], sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, text, form).decode()
        except (InvalidTag, ValueError):
            raise CredentialsError(
                f"a facility's password cannot be opened: {self._source} differs from the one that it was sealed with, or it "
                "is damaged. Put the former one back, or give the facility its password anew (`sluice facility mailbox`)"
            ) from None


def _key_of(data_dir: Path) -> tuple[bytes, Path]:
    with explained(data_dir.absolute()):
        home, account = settle(data_dir)
        path = home / KEY_FILE
        # The embedded database's own lock: it keeps two from making a key, and marks the folder as ours.
        with locked(home / GATE, account):
            if not path.exists():
                _make_key(path, account)
        key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise ConfigError(
            f"{path} is no key of ours. Put it back from a copy, or remove it and give the facilities their passwords anew "
            "(`sluice facility mailbox`)"
        )
    return key, path


def _make_key(path: Path, account: Account) -> None:
    """Whole or not at all: half a key would stay, and nobody could tell."""
    new = path.with_name(f"{KEY_FILE}.new")
    new.unlink(missing_ok=True)
    with open_ours(new, account) as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
        os.fsync(file.fileno())
    new.replace(path)
