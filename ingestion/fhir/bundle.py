"""What a Bundle comes to: each entry's resource under its id, with references to other entries resolved. Pure.

https://hl7.org/fhir/R4/http.html#transaction
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from base.errors import Invalid
from ingestion.fhir.entries import Bundle, Entry, Problem, Unresolved, condition_of
from r4.indexing import cap
from r4.resource import Resource, is_id, split
from storage.resources import Identifier, Key

Answers = Mapping[Identifier, Sequence[str]]
"""Ids of stored resources by identifier: none, one, or several."""

_LINK = re.compile(rb'"(reference|url|uri|valueUri|valueUrl)"(\s*:\s*)"(urn:(?:uuid|oid):[^"\\]+)"')
_CONDITIONAL = re.compile(rb'"reference"(\s*:\s*)("[A-Z][A-Za-z]*\?[^"]*")')


@dataclass(frozen=True, slots=True)
class Write:
    """What one entry comes to: `resource` is None where it deletes, or where it keeps what its condition has found."""

    number: int
    key: Key
    resource: Resource | None = None
    keeps: bool = False

    @property
    def sha256(self) -> bytes | None:
        return self.resource.sha256 if self.resource else None


def questions(bundle: Bundle) -> set[Identifier]:
    """The identifiers that have to be looked up among what is stored, before `resolve`."""
    asked = {entry.condition for entry in bundle.entries if entry.condition is not None}
    if bundle.is_told:
        for entry in bundle.entries:
            for match in _CONDITIONAL.finditer(entry.raw):
                try:
                    asked.add(condition_of(match[2]))
                except Invalid:
                    continue  # reported when the reference is resolved
    return asked


def resolve(bundle: Bundle, answers: Answers) -> Iterator[Write | Problem]:
    """What each entry comes to, the Bundle's own problems first. Each stands for itself, but see `together`."""
    yield from bundle.problems
    targets = _Targets(bundle, answers)
    yield from targets.problems
    rewrite = targets.rewrite_told if bundle.is_told else targets.rewrite_plain
    for entry, resource_id, keeps in targets.places:
        key = (entry.type, resource_id)
        try:
            resource = split(rewrite(entry.raw), as_id=resource_id) if entry.raw and not keeps else None
        except Invalid as error:
            yield Problem.of(entry.number, error)
        else:
            yield Write(entry.number, key, resource, keeps)


class _Targets:
    """Which id each entry is written to, and so what links and conditions lead to."""

    def __init__(self, bundle: Bundle, answers: Answers) -> None:
        self.problems: list[Problem] = []
        self.places: list[tuple[Entry, str, bool]] = []
        """Each entry with its id, and whether what is stored there is kept."""
        self._answers = answers
        self._links: dict[bytes, bytes] = {}
        self._met: dict[Identifier, str] = {}  # conditions for which this Bundle itself makes a resource
        self._own: defaultdict[Identifier, set[str]] = defaultdict(set)
        for entry in bundle.entries:
            try:
                self._place(entry)
            except Invalid as error:
                self.problems.append(Problem.of(entry.number, error))

    def _place(self, entry: Entry) -> None:
        existing = self._existing(entry)
        resource_id = existing or entry.id or _id_of_link(entry.link)
        if entry.method == "DELETE":
            if resource_id is not None:  # a condition that nothing meets deletes nothing
                self.places.append((entry, resource_id, False))
            return
        resource_id = resource_id or _id_of_content(entry)
        if entry.link:
            self._links[entry.link.encode()] = f"{entry.type}/{resource_id}".encode()
        for identifier in _identifiers(entry):
            self._own[identifier].add(resource_id)
        if entry.condition is not None:
            self._met[entry.condition] = resource_id
        self.places.append((entry, resource_id, existing is not None and entry.method == "POST"))

    def _existing(self, entry: Entry) -> str | None:
        if entry.condition is None:
            return None
        if entry.condition in self._met:
            return self._met[entry.condition]
        found = self._answers[entry.condition]
        if len(found) > 1:
            raise Invalid("its condition is met by several resources")
        if found and entry.method == "PUT" and entry.id not in (None, found[0]):
            raise Invalid("its condition is met by a resource with another id")
        return found[0] if found else None

    def rewrite_plain(self, raw: bytes) -> bytes:
        return _LINK.sub(partial(self._link, strict=False), raw) if b'"urn:' in raw else raw

    def rewrite_told(self, raw: bytes) -> bytes:
        linked = _LINK.sub(partial(self._link, strict=True), raw) if b'"urn:' in raw else raw
        return _CONDITIONAL.sub(self._conditional, linked)

    def _link(self, match: re.Match[bytes], *, strict: bool) -> bytes:
        target = self._links.get(match[3])
        if target is not None:
            return b'"%b"%b"%b"' % (match[1], match[2], target)
        if strict and match[1] == b"reference":
            raise Invalid("a reference leads to no entry of the Bundle")
        return match[0]

    def _conditional(self, match: re.Match[bytes]) -> bytes:
        condition = condition_of(match[2])
        found = self._own.get(condition) or set(self._answers[condition])
        if not found:
            raise Unresolved(f"a conditional reference to {condition.type} is met by no resource")
        if len(found) > 1:
            raise Invalid(f"a conditional reference to {condition.type} is met by several resources")
        return b'"reference"%b"%b/%b"' % (match[1], condition.type.encode(), next(iter(found)).encode())


def together(results: Iterator[Write | Problem]) -> list[Write] | Problem:
    """A transaction's entries, which go in together or not at all: then the first reason that is more than waiting."""
    writes: dict[Key, Write] = {}
    problems: list[Problem] = []
    for result in results:
        if isinstance(result, Problem):
            problems.append(result)
            continue
        other = writes.get(result.key)
        if other is None or other.keeps:
            writes[result.key] = result
        elif not result.keeps and result.sha256 != other.sha256:
            problems.append(Problem(result.number, "another entry writes the same resource", waits=False))
    if not problems:
        return list(writes.values())
    worst = min(problems, key=lambda problem: problem.waits)
    return Problem(0, f"entry {worst.number}: {worst.reason}; nothing of this transaction is imported", worst.waits)


def _identifiers(entry: Entry) -> Iterator[Identifier]:
    """By which conditional references find an entry: each with its system, and with any."""
    found = entry.identity.identifier
    for identifier in found if isinstance(found, list) else [found]:
        if isinstance(identifier, dict) and isinstance(code := identifier.get("value"), str):
            system = identifier.get("system")
            yield Identifier(entry.type, cap(system) if isinstance(system, str) else "", cap(code))
            yield Identifier(entry.type, None, cap(code))


def _id_of_link(link: str) -> str | None:
    if link and not is_id(link.rpartition(":")[2]):
        raise Invalid("fullUrl holds no id")
    return link.rpartition(":")[2] or None


def _id_of_content(entry: Entry) -> str:
    """So that the same resource, imported again, is the same."""
    resource = split(entry.raw, as_id="new")
    return hashlib.sha256(resource.type.encode() + resource.sha256).hexdigest()[:32]
