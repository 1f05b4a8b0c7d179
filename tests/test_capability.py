"""What /fhir/metadata says is what works: every interaction, parameter, modifier, inclusion, operation and compartment."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from base.errors import Invalid
from base.operations import OPERATIONS, Kind
from handlers.metadata import PATH
from r4 import capability
from r4.capability import capability_statement
from r4.criteria import modifiers_of
from r4.parameters import COMPARTMENTS, EVERY_TYPE, PARAMETERS, Parameter, ParamType
from r4.search import INCLUSIONS_MAX, parse_search
from r4.types import RESOURCE_TYPES
from storage.embedded import Cluster
from tests.reading import reading
from tests.specimens import Json, specimens, values_of
from tests.support import PATHS, Asker, Home, add_tenant, build_home, bundle_of, diagnosed

BASE = "http://test.example"
PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
MODIFIERS = ("missing", "exact", "contains", "text", "not", "of-type", "identifier", "above", "below", "in", "not-in")
SAID_OF = {
    Kind.READ: {"read"},
    Kind.VREAD: {"vread"},
    Kind.LIST: {"search-type"},
    Kind.HISTORY: {"history-instance", "history-type", "history-system"},
    Kind.REVIEW: {"everything"},
    Kind.EVERYTHING: {"everything"},
}
WITH_CHANNEL = {operation.type for operation in OPERATIONS}
STORED = {(each["resourceType"], each["id"]): each for each in specimens()}


async def _fill(home: Home) -> None:
    home.keys["one"] = await add_tenant(home.database, "one", specimens())


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "capability", _fill)


def _walks(types: Iterator[str] | set[str]) -> list[Any]:
    """Both paths for what has a channel; the others are always direct."""
    pairs = [(path, kind) for kind in sorted(types) for path in PATHS if path == "direct" or kind in WITH_CHANNEL]
    return [pytest.param(*pair, id="-".join(pair)) for pair in pairs]


async def _statement(ask: Asker) -> Json:
    reply = await ask.once(PATH, None)
    assert reply.status == 200, reply.body
    return dict(reply.json)


def _resources(statement: Json) -> dict[str, Json]:
    return {row["type"]: row for row in statement["rest"][0]["resource"]}


SAID = capability_statement(BASE, "1")
RESOURCES = _resources(SAID)


@pytest.mark.parametrize(("path", "kind"), _walks(RESOURCES.keys() & PARAMETERS.keys()))
async def test_search_parameters(home: Home, path: str, kind: str) -> None:
    """Every parameter of a type finds by its value what has it, with every modifier and prefix that it names."""
    resource = STORED[kind, "full"]
    async with reading(home, path) as ask:
        for row in _resources(await _statement(ask))[kind]["searchParam"]:
            for query, finds in _questions(kind, row, resource):
                found = await _found(ask, f"/fhir/{kind}?{query}")
                if finds is not None:
                    name = "other" if query.startswith(("onset-info", "abatement-string")) else "full"
                    assert ((kind, name) in found) == finds, query


async def _found(ask: Asker, url: str) -> dict[tuple[str, str], str]:
    """(type, id) of a Bundle's entries, and their modes. Handling is strict: what is not known fails."""
    entries = bundle_of(await ask(url, Prefer="handling=strict")).get("entry", [])
    return {(entry["resource"]["resourceType"], entry["resource"]["id"]): entry["search"]["mode"] for entry in entries}


def _questions(kind: str, row: Json, resource: Json) -> Iterator[tuple[str, bool | None]]:
    """Queries, and whether each finds the resource; None where it may or may not."""
    name = row["name"]
    if name in ("_id", "_lastUpdated"):
        yield from _questions_of_column(name)
        return
    parameter = {**PARAMETERS[kind], **EVERY_TYPE}[name]
    assert parameter.type.value == row["type"]
    value = next(iter(values_of(parameter, resource)), None) or values_of(parameter, STORED[kind, "other"])[0]
    said = re.search(r"Modifiers (.*)\.$", row["documentation"])
    assert said is not None
    plain, questions = _plain(parameter, value), _modified(parameter, value)
    yield f"{name}={plain}", True
    for modifier in said[1].split(", "):
        for suffix, given, finds in questions[modifier]:
            yield f"{name}{suffix}={given}", finds
    if row["type"] in ("date", "quantity"):
        assert f"Prefixes {', '.join(PREFIXES)}." in row["documentation"]
        for prefix in PREFIXES:
            finds = {"eq": True, "ap": True, "ge": True, "le": True, "ne": False}.get(prefix)
            yield f"{name}={prefix}{plain}", finds if row["type"] == "date" or prefix in ("eq", "ne", "ap") else None
    yield f"_sort={name}", True
    yield f"_sort=-{name}", True


def _questions_of_column(name: str) -> Iterator[tuple[str, bool | None]]:
    if name == "_id":
        yield from (("_id=full", True), ("_id=bare,full", True), ("_id=bare", False))
    else:
        yield from ((f"_lastUpdated={prefix}2026-01-02", prefix in ("eq", "ge", "le", "ap")) for prefix in PREFIXES)
    yield f"_sort={name}", True
    yield f"_sort=-{name}", True


def _plain(parameter: Parameter, value: Any) -> str:
    if parameter.type is ParamType.TOKEN:
        return _token(parameter, value)
    if parameter.type is ParamType.REFERENCE:
        return str(value["reference"])
    if parameter.type is ParamType.DATE:
        return str(value["start"] if isinstance(value, dict) else value)[:7]
    if parameter.type is ParamType.QUANTITY:
        return f"{value['value']}|{value['system']}|{value['code']}"
    return quote(_string(value))


def _token(parameter: Parameter, value: Any) -> str:
    if parameter.computed == "present":
        return "true"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, dict):
        return str(value)
    if parameter.system == "":
        return str(value["value"])
    coded = value["coding"][0] if "coding" in value else value
    return f"{coded['system']}|{coded.get('code') or coded['value']}"


def _string(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return str(value["family"] if "family" in value else value["city"])


def _modified(parameter: Parameter, value: Any) -> dict[str, list[tuple[str, str, bool | None]]]:
    """By modifier: what stands behind the name, the value, and whether it finds the resource."""
    questions: dict[str, list[tuple[str, str, bool | None]]] = {
        ":missing": [(":missing", "true", False), (":missing", "false", True)],
        ":not": [(":not", _plain(parameter, value), False), (":not", "nothing-has-it", True)],
    }
    if parameter.type is ParamType.STRING:
        text = _string(value)
        questions[":exact"] = [(":exact", quote(text), True), (":exact", quote(f"{text} "), False)]
        questions[":contains"] = [(":contains", quote(text[1:]), True), (":contains", quote(text[1:3]), True)]
    if parameter.type is ParamType.TOKEN and isinstance(value, dict):
        words = value.get("text") or value.get("display") or value.get("type", {}).get("text", "")
        questions[":text"] = [(":text", quote(words.lower()), True), (":text", "nothing-says-it", False)]
    if parameter.name == "identifier":
        coding = value["type"]["coding"][0]
        given = f"{coding['system']}|{coding['code']}|{value['value']}"
        questions[":of-type"] = [(":of-type", given, True), (":of-type", f"x{given}", False)]
    if parameter.type is ParamType.REFERENCE:
        kind, _, name = value["reference"].partition("/")
        identifier = value["identifier"]
        of = f"{identifier['system']}|{identifier['value']}"
        questions[":identifier"] = [(":identifier", of, True), (":identifier", "urn:refs|x", False)]
        questions[":Type"] = [(f":{kind}", name, True), (f":{kind}", "x", False)]
    return questions


@pytest.mark.parametrize(("path", "kind"), _walks(RESOURCES.keys() & PARAMETERS.keys()))
async def test_inclusions(home: Home, path: str, kind: str) -> None:
    """Every _include and _revinclude of a type brings what is stored and is meant, once, and nothing else."""
    full = STORED[kind, "full"]
    async with reading(home, path) as ask:
        resource = _resources(await _statement(ask))[kind]
        for include in resource.get("searchInclude", []):
            wanted = {key for key in _led_to(full, include.rpartition(":")[2]) if key in STORED} - {(kind, "full")}
            assert await _brought(ask, kind, f"_include={include}") == wanted, include
            for target in {target for target, _ in wanted} if include != "*" else ():
                one = await _brought(ask, kind, f"_include={include}:{target}")
                assert one == {key for key in wanted if key[0] == target}, (include, target)
        for revinclude in resource.get("searchRevInclude", []):
            source, _, param = revinclude.partition(":")
            wanted = {key for key, each in STORED.items() if key[0] == source and (kind, "full") in _led_to(each, param)} - {
                (kind, "full")
            }
            for suffix in ("", f":{kind}"):
                assert await _brought(ask, kind, f"_revinclude={revinclude}{suffix}") == wanted, revinclude
        everything = [f"_include:iterate={each}" for each in resource.get("searchInclude", [])[:8]]
        everything += [f"_revinclude:iterate={each}" for each in resource.get("searchRevInclude", [])[:8]]
        if everything:
            await _brought(ask, kind, "&".join(everything))


def _led_to(resource: Json, param: str) -> set[tuple[str, str]]:
    rows = PARAMETERS[resource["resourceType"]]
    named = list(rows.values()) if param == "*" else [rows[param]]
    found = set()
    for row in named:
        if row.type is ParamType.REFERENCE:
            for value in values_of(row, resource):
                kind, _, name = value["reference"].partition("/")
                found |= {(kind, name)} if not row.targets or kind in row.targets else set()
    return found


async def _brought(ask: Asker, kind: str, query: str) -> set[tuple[str, str]]:
    found = await _found(ask, f"/fhir/{kind}?_id=full&{query}")
    assert found[kind, "full"] == "match"
    assert [key for key, mode in found.items() if mode == "match"] == [(kind, "full")]
    return {key for key, mode in found.items() if mode == "include"}


async def test_other_types(home: Home) -> None:
    """What is said of the types without parameters of their own holds too: those of every type, and what refers to them."""
    async with reading(home, "direct") as ask:
        said = await _statement(ask)
        common = [row["name"] for row in said["rest"][0]["searchParam"]]
        assert common == ["_id", "_lastUpdated", *EVERY_TYPE, "_has"]
        patient = STORED["Patient", "full"]
        questions = [query for row in said["rest"][0]["searchParam"][:-1] for query, _ in _questions("Patient", row, patient)]
        for query in (*questions, "_has:Encounter:appointment:status=planned", "_has:Account:subject:name=nobody"):
            assert not await _found(ask, f"/fhir/Appointment?{query}"), query
        for kind, row in _resources(said).items():
            if kind not in PARAMETERS:
                assert not {"searchParam", "searchInclude", "operation"} & set(row)
                said_of_it = row["searchRevInclude"]
                for some in (said_of_it[:INCLUSIONS_MAX], said_of_it[INCLUSIONS_MAX:]):
                    included = "".join(f"&_revinclude={each}" for each in some)
                    assert not await _found(ask, f"/fhir/{kind}?_id=x{included}")


@pytest.mark.parametrize("path", PATHS)
async def test_interactions(home: Home, path: str) -> None:
    """Every interaction that a type names is answered for that type, and no other is."""
    async with reading(home, path) as ask:
        said = await _statement(ask)
        for kind, row in _resources(said).items():
            if path == "channel" and kind not in WITH_CHANNEL:
                continue
            key = (kind, "full") if (kind, "full") in STORED else None
            for code in _codes(row):
                await _interact(ask, code, kind, "full", there=key is not None)
            for method in ("PUT", "PATCH", "DELETE"):
                diagnosed(await ask.once(f"/fhir/{kind}/full", method=method), 405, "not-supported")
            diagnosed(await ask.once(f"/fhir/{kind}", method="POST", body=b"{}"), 405, "not-supported")
            assert (row["versioning"], row["readHistory"], row["updateCreate"]) == ("versioned", True, False)
            assert row["conditionalRead"] == "full-support"
        assert [each["code"] for each in said["rest"][0]["interaction"]] == ["history-system"]
        history = bundle_of(await ask.once("/fhir/_history?_count=1000"))
        assert {(e["resource"]["resourceType"], e["resource"]["id"]) for e in history["entry"]} == set(STORED)


def _codes(row: Json) -> list[str]:
    return [each["code"] for each in row["interaction"]]


async def _interact(ask: Asker, code: str, kind: str, name: str, *, there: bool) -> None:
    url = f"/fhir/{kind}"
    if code in ("read", "vread"):
        url += f"/{name}" if code == "read" else f"/{name}/_history/1"
        reply = await ask(url)
        if not there:
            diagnosed(reply, 404, "not-found")
            return
        assert (reply.status, reply.json["id"], reply.headers["ETag"]) == (200, name, 'W/"1"')
        assert (await ask(url, If_None_Match='W/"1"')).status == 304
        assert (await ask(url, If_Modified_Since=reply.headers["Last-Modified"])).status == 304
    elif code == "search-type":
        assert ((kind, name) in await _found(ask, f"{url}?_id={name}")) == there
        posted = await ask(f"{url}/_search?_id={name}", method="POST")
        assert bool(bundle_of(posted).get("entry")) == there
    else:
        assert code in ("history-instance", "history-type")
        reply = await ask(f"{url}/{name}/_history" if code == "history-instance" else f"{url}/_history")
        if code == "history-instance" and not there:
            diagnosed(reply, 404, "not-found")
        else:
            bundle = bundle_of(reply)
            assert (bundle["type"], bool(bundle.get("entry"))) == ("history", there)


@pytest.mark.parametrize("path", PATHS)
async def test_operations_and_compartments(home: Home, path: str) -> None:
    """Every operation gives its resource among others; every compartment gives what its definition's parameters lead from."""
    async with reading(home, path) as ask:
        said = await _statement(ask)
        for kind, row in _resources(said).items():
            for operation in row.get("operation", []):
                assert operation["definition"] == f"http://hl7.org/fhir/OperationDefinition/{kind}-{operation['name']}"
                bundle = bundle_of(await ask(f"/fhir/{kind}/full/${operation['name']}"))
                assert kind in {entry["resource"]["resourceType"] for entry in bundle["entry"]}
        canonicals = said["rest"][0]["compartment"]
        assert canonicals == [f"http://hl7.org/fhir/CompartmentDefinition/{kind.lower()}" for kind in COMPARTMENTS]
        for kind, searched, params in _compartments(path):
            led = {
                key: set().union(*(_led_to(each, param) for param in params))
                for key, each in STORED.items()
                if key[0] == searched
            }
            for compartment in {target for targets in led.values() for target in targets if target[0] == kind}:
                found = await _found(ask, f"/fhir/{'/'.join(compartment)}/{searched}")
                assert set(found) == {key for key, targets in led.items() if compartment in targets}, (compartment, searched)


def _compartments(path: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for kind, types in COMPARTMENTS.items():
        for searched, params in types.items():
            if path == "direct" or searched in WITH_CHANNEL:
                yield kind, searched, params


def test_nothing_is_missing() -> None:
    """Every kind of operation is said; types, parameters, modifiers and inclusions that are not said are refused."""
    operations = {name for names in capability.OPERATIONS.values() for name in names}
    assert set(SAID_OF) == set(Kind)
    assert set().union(*SAID_OF.values()) == {*capability.INTERACTIONS, *capability.SYSTEM_INTERACTIONS, *operations}
    assert set(RESOURCES) == RESOURCE_TYPES
    assert len(SAID["rest"][0]["resource"]) == len(RESOURCES)
    names = {name for table in PARAMETERS.values() for name in table} | {"_text", "_content", "_list", "_filter", "_query"}
    for kind, table in PARAMETERS.items():
        rows = {row["name"]: row for row in RESOURCES[kind]["searchParam"]}
        assert set(rows) == {*table, *EVERY_TYPE, "_id", "_lastUpdated"}
        for name in names - set(rows):
            with pytest.raises(Invalid):
                parse_search(kind, [(name, "x")], strict=True)
        for name, row in rows.items():
            for modifier in set(MODIFIERS) - set(re.findall(r":([a-z-]+)", row["documentation"].partition("Modifiers")[2])):
                with pytest.raises(Invalid, match="is not supported"):
                    parse_search(kind, [(f"{name}:{modifier}", "true")])
        for reverse in ("", "rev"):
            said = set(RESOURCES[kind].get("searchRevInclude" if reverse else "searchInclude", []))
            assert said == _inclusions(kind, reverse=bool(reverse))
            for refused in {f"{source}:{param}" for source, params in PARAMETERS.items() for param in ("*", *params)} - said:
                with pytest.raises(Invalid):
                    parse_search(kind, [(f"_{reverse}include", refused)], strict=True)


def _inclusions(kind: str, *, reverse: bool) -> set[str]:
    found = set()
    for source in PARAMETERS if reverse else [kind]:
        rows = [row for row in PARAMETERS[source].values() if row.type is ParamType.REFERENCE]
        named = {row.name for row in rows if not reverse or not row.targets or kind in row.targets}
        found |= {f"{source}:{name}" for name in (*named, *(["*"] if named else []))}
    return found | ({"*"} if found and not reverse else set())


def test_modifiers() -> None:
    """Each parameter has the modifiers that R4 gives its type, as far as its values have what they look at."""
    of_type = {
        ParamType.STRING: {"missing", "exact", "contains"},
        ParamType.REFERENCE: {"missing", "identifier"},
        ParamType.DATE: {"missing"},
        ParamType.URI: {"missing"},
        ParamType.QUANTITY: {"missing"},
    }
    for kind, table in PARAMETERS.items():
        for row in table.values():
            wanted = of_type.get(row.type, {"missing", "not"} | ({"text"} if row.system is None else set()))
            wanted = {"missing"} if row.name == "phonetic" else wanted | ({"of-type"} if row.name == "identifier" else set())
            assert set(modifiers_of(row)) == wanted, (kind, row.name)
