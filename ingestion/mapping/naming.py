"""What claims are called in FHIR: ids of resources, and the systems of identifiers and codes."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from urllib.parse import quote

from storage.resources import Identifier

DEFAULT_BASE = "https://fhir.example.ae"
_KEY_BYTES = range(16, hashlib.blake2b.MAX_KEY_SIZE + 1)


@dataclass(frozen=True)
class Naming:
    """`base`: what the systems of our own stand under; no official ones were found. `key`: the secret of the ids."""

    key: bytes = field(repr=False)
    base: str = DEFAULT_BASE

    def __post_init__(self) -> None:
        if len(self.key) not in _KEY_BYTES:
            raise ValueError(f"a key has {_KEY_BYTES.start} to {_KEY_BYTES.stop - 1} bytes")

    def id_of(self, kind: str, *key: str) -> str:
        """The same for the same key, and not to be guessed without the secret: 32 hex digits.

        What stands between the parts is a character that no XML document can hold.
        """
        text = "\x1f".join((kind, *key)).encode()
        return hashlib.blake2b(text, digest_size=16, key=self.key).hexdigest()

    def sid(self, name: str, *of: str) -> str:
        """A system of identifiers; `of`: who gives them out."""
        return _system(self.base, "sid", name, of)

    def cs(self, name: str) -> str:
        """A system of codes."""
        return _system(self.base, "cs", name, ())

    def url(self, name: str) -> str:
        """Of an extension."""
        return _system(self.base, "StructureDefinition", name, ())

    def clinician(self, licence: str) -> Identifier:
        return _identifier("Practitioner", self._clinicians, licence)

    def facility(self, licence: str) -> Identifier:
        return _identifier("Organization", self._facilities, licence)

    def payer(self, licence: str) -> Identifier:
        return _identifier("Organization", self._payers, licence)

    def emirates_id(self, number: str) -> Identifier:
        return Identifier("Patient", self.sid("emirates-id"), number)

    def record_number(self, facility_id: str, number: str) -> Identifier:
        return Identifier("Patient", self.sid("mrn", facility_id), number)

    @cached_property
    def _clinicians(self) -> str:
        return self.sid("dha-clinician")

    @cached_property
    def _facilities(self) -> str:
        return self.sid("dha-facility")

    @cached_property
    def _payers(self) -> str:
        return self.sid("eclaimlink-payer")


@lru_cache(maxsize=1 << 14)
def _identifier(kind: str, system: str, code: str) -> Identifier:
    """One object for one identifier, so that looking it up is quick."""
    return Identifier(kind, system, code)


@lru_cache(maxsize=1 << 13)
def _system(base: str, family: str, name: str, of: tuple[str, ...]) -> str:
    """A URI has no blanks, and where a search names a system it must not have a `|` either."""
    return "/".join((base, family, *(quote(part, safe="") for part in (name, *of))))
