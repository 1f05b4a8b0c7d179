"""Which patient, practitioner and organization a claim speaks of: found by identifier, else made and remembered.

What was imported goes before what claims say: a resource that stands there under an identifier is taken as it is. One that
ingestion makes holds its identifiers and nothing else, and gains those that later claims add.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from ingestion.mapping.from_claims import Naming, organization, patient, practitioner
from r4.resource import Resource
from storage.claims import Named, add_names, find_names, holders, names_of
from storage.resources import Identifier, find_identifiers

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Identities:
    """What the claims of a file speak of: ids by identifier, and the resources that are new or have gained an identifier."""

    ids: Mapping[Identifier, str]
    resources: Sequence[Resource]

    def patient(self, identifiers: Sequence[Identifier]) -> str:
        return self.ids[identifiers[0]]


async def identify(
    connection: asyncpg.Connection,
    tenant_id: int,
    naming: Naming,
    patients: Iterable[tuple[Identifier, ...]],
    others: Iterable[Identifier],
) -> Identities:
    """`patients`: each one's identifiers, the surest first; `others`: practitioners and organizations."""
    people, rest = sorted(set(patients), key=_surest_first), sorted(set(others), key=_key)
    wanted = {*rest, *(identifier for identifiers in people for identifier in identifiers)}
    for _ in range(_TRIES):
        found = await _found(connection, tenant_id, wanted)
        names = _Names(found, naming, held=await _held(connection, tenant_id, people, found))
        for identifiers in [*people, *((identifier,) for identifier in rest)]:
            names.take(identifiers)
        if await _added(connection, tenant_id, sorted(names.new.values(), key=_key_of_name)):
            return Identities(names.ids, await _resources(connection, tenant_id, names, naming))
    raise asyncpg.SerializationError("identifiers are being named by others again and again")


async def _added(connection: asyncpg.Connection, tenant_id: int, names: Sequence[Named]) -> bool:
    """All of them, or none: when another transaction has named one of them meanwhile, ours have to follow it."""
    if not names:
        return True
    savepoint = connection.transaction()
    await savepoint.start()
    added = await add_names(connection, tenant_id, names)
    await (savepoint.commit() if added else savepoint.rollback())
    return added


@dataclass
class _Names:
    """Who is who: what is stored, and what this file adds to it."""

    stored: Mapping[Identifier, Named]
    naming: Naming
    held: set[tuple[str, str | None]]  # (resource id, system): who has one of a system already, of those for whom that matters
    new: dict[Identifier, Named] = field(default_factory=dict)

    @property
    def ids(self) -> dict[Identifier, str]:
        return {identifier: name.resource_id for identifier, name in (*self.stored.items(), *self.new.items())}

    def take(self, identifiers: tuple[Identifier, ...]) -> None:
        """Finds whose they are, by the surest that is known, and gives that one the others too.

        A medical record number leads to nobody who has another Emirates ID: then one of the two is wrong.
        """
        surest = identifiers[0]
        name = self._known(surest)
        if name is None:
            weaker = [found for identifier in identifiers[1:] if (found := self._known(identifier))]
            name = next((found for found in weaker if (found.resource_id, surest.system) not in self.held), None)
        if name is None:
            name = Named(surest, self.naming.id_of(surest.type, surest.system or "", surest.code), made=True)
        for identifier in identifiers:
            if self._known(identifier) is None:
                self.new[identifier] = Named(identifier, name.resource_id, name.made)
        self.held.add((name.resource_id, surest.system))

    def _known(self, identifier: Identifier) -> Named | None:
        return self.new.get(identifier) or self.stored.get(identifier)


async def _found(connection: asyncpg.Connection, tenant_id: int, wanted: set[Identifier]) -> dict[Identifier, Named]:
    """What ingestion remembers; then what was imported, unless several resources have the identifier."""
    found = {name.identifier: name for name in await find_names(connection, tenant_id, wanted)}
    missing = sorted(wanted - found.keys(), key=_key)
    if missing:
        for identifier, ids in (await find_identifiers(connection, tenant_id, missing)).items():
            if len(ids) == 1:
                found[identifier] = Named(identifier, ids[0], made=False)
    return found


async def _held(
    connection: asyncpg.Connection, tenant_id: int, people: Sequence[tuple[Identifier, ...]], found: Mapping[Identifier, Named]
) -> set[tuple[str, str | None]]:
    """Of those whom a new person's weaker identifiers lead to, who has a surest one already."""
    held: set[tuple[str, str | None]] = set()
    asked: dict[str, set[str]] = {}
    for surest, *weaker in people:
        if surest not in found:
            asked.setdefault(surest.system or "", set()).update(found[w].resource_id for w in weaker if w in found)
    for system, ids in asked.items():
        if ids:
            held |= {(resource_id, system) for resource_id in await holders(connection, tenant_id, "Patient", system, ids)}
    return held


async def _resources(connection: asyncpg.Connection, tenant_id: int, names: _Names, naming: Naming) -> list[Resource]:
    gained: dict[str, set[str]] = {}
    for name in names.new.values():
        if name.made:
            gained.setdefault(name.identifier.type, set()).add(name.resource_id)
    resources = []
    for kind, ids in gained.items():
        all_names: dict[str, list[Identifier]] = {}
        for name in await names_of(connection, tenant_id, kind, sorted(ids)):
            all_names.setdefault(name.resource_id, []).append(name.identifier)
        for resource_id, identifiers in sorted(all_names.items()):
            resources.append(_resource(kind, resource_id, sorted(identifiers, key=_key), naming))
    return resources


def _resource(kind: str, resource_id: str, identifiers: list[Identifier], naming: Naming) -> Resource:
    if kind == "Patient":
        return patient(resource_id, identifiers, naming)
    return (practitioner if kind == "Practitioner" else organization)(resource_id, identifiers[0], naming)


def _key(identifier: Identifier) -> tuple[str, str, str]:
    return identifier.type, identifier.system or "", identifier.code


def _key_of_name(name: Named) -> tuple[str, str, str]:
    return _key(name.identifier)


def _surest_first(identifiers: tuple[Identifier, ...]) -> tuple[int, list[tuple[str, str, str]]]:
    """Who has more is named first, so that the order of a file's claims does not matter."""
    return -len(identifiers), [_key(identifier) for identifier in identifiers]
