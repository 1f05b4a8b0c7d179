import json
from pathlib import Path
from typing import Any

import pytest

from tests.importing import bundle, encoded, entry, imported, make_tenant, refuse, resource, rows_of, stored, write_lines

ONE, TWO = "urn:uuid:c757873d-ec9a-4326-a141-556f43239520", "urn:uuid:2b9a4a1e-6f0e-4c5e-9a3c-0d7d4c6a8f11"
NPI = "http://hl7.org/fhir/sid/us-npi"


def uuid(link: str) -> str:
    return link.rpartition(":")[2]


def practitioner(resource_id: str, npi: str = "1") -> dict[str, Any]:
    return resource("Practitioner", resource_id, identifier=[{"system": NPI, "value": npi}])


def patient(resource_id: str, general_practitioner: str) -> dict[str, Any]:
    return resource("Patient", resource_id, generalPractitioner=[{"reference": general_practitioner}])


def to(npi: str) -> str:
    return f"Practitioner?identifier={NPI}|{npi}"


class Import:
    """Imports into one tenant, a line of NDJSON for each document."""

    def __init__(self, database: str, tenant_id: int, folder: Path) -> None:
        self.database, self.tenant_id, self.folder = database, tenant_id, folder

    async def __call__(self, *documents: dict[str, Any] | bytes, strict: bool = False) -> list[tuple[int, str]]:
        """Lines and reasons of what was bad."""
        file = write_lines(self.folder / "bundles.ndjson", documents)
        _, bad = await imported(self.database, self.tenant_id, file, strict=strict)
        return [(line.line, line.reason) for line in bad]

    async def versions(self) -> dict[str, int]:
        return {key: version for key, (version, _) in (await stored(self.database, self.tenant_id)).items()}

    async def document(self, key: str) -> Any:
        return json.loads((await stored(self.database, self.tenant_id))[key][1])

    async def references(self) -> list[tuple[str, ...]]:
        return await rows_of(self.database, "reference", "type, id, to_type, to_id")


@pytest.fixture
async def put_in(database: str, tmp_path: Path) -> Import:
    return Import(database, await make_tenant(database), tmp_path)


@pytest.mark.parametrize("kind", ["collection", "searchset"])
async def test_plain_bundles(put_in: Import, kind: str) -> None:
    """Each resource goes in; outcomes are passed over; a bad entry is told by its number and harms no other."""
    made = bundle(
        kind,
        {"fullUrl": "http://x/Patient/a", "resource": resource("Patient", "a"), "search": {"mode": "match"}},
        {"resource": {"resourceType": "OperationOutcome", "issue": []}},
        {"resource": {"resourceType": "Patient"}},
        {"search": {"mode": "match"}},
        {"resource": [1]},
        {"resource": resource("Patient", "b_")},
        {"fullUrl": ONE, "resource": {"resourceType": "Group"}},
        {"resource": resource("Basic", "c", subject={"reference": ONE}, author={"reference": TWO})},
    )
    assert await put_in(made, made) == [
        (line, reason)
        for line in (1, 2)
        for reason in (
            "entry 3: id is missing",
            "entry 4: has no resource",
            "entry 5: not a resource: Expected `object`, got `array`",
            "entry 6: id is not 1 to 64 letters, digits, '-' and '.'",
        )
    ]
    assert await put_in.versions() == {"Patient/a": 1, f"Group/{uuid(ONE)}": 1, "Basic/c": 1}
    assert await put_in.references() == [("Basic", "c", "Group", uuid(ONE))]
    assert (await put_in.document("Basic/c"))["author"] == {"reference": TWO}


async def test_history(put_in: Import) -> None:
    """Of a history, which begins with the newest, each resource's newest state is taken, a deletion too."""
    await put_in(resource("Patient", "gone"))
    made = bundle(
        "history",
        {"request": {"method": "DELETE", "url": "Patient/gone"}},
        {"resource": resource("Patient", "gone", active=True), "request": {"method": "PUT", "url": "Patient/gone"}},
        {"resource": resource("Patient", "a", active=True), "request": {"method": "PUT", "url": "Patient/a"}},
        {"resource": resource("Patient", "a", active=False), "request": {"method": "POST", "url": "Patient"}},
    )
    assert await put_in(made) == []
    assert await put_in.versions() == {"Patient/a": 1}
    assert (await put_in.document("Patient/a"))["active"] is True


@pytest.mark.parametrize("kind", ["batch", "transaction"])
async def test_methods(put_in: Import, kind: str) -> None:
    """PUT, POST and DELETE do as they say, with urn:uuid references resolved; importing it again changes nothing."""
    await put_in(resource("Patient", "old"), practitioner("also-old", "9"))
    made = bundle(
        kind,
        entry("PUT", "Patient/a", patient("a", ONE)),
        entry("POST", "Practitioner", {"resourceType": "Practitioner"}, full_url=ONE),
        entry("POST", "Basic", {"resourceType": "Basic", "subject": {"reference": TWO}, "link": {"url": ONE}}),
        entry("PUT", "/Group/g", resource("Group", "g"), full_url=TWO),
        entry("DELETE", "Patient/old"),
        entry("DELETE", "Patient/never"),
        entry("DELETE", f"Practitioner?identifier={NPI}|9"),
    )
    assert await put_in(made, made) == []
    versions = await put_in.versions()
    basic = next(key for key in versions if key.startswith("Basic/"))
    assert versions == {"Patient/a": 1, f"Practitioner/{uuid(ONE)}": 1, basic: 1, "Group/g": 1}
    assert (await put_in.document(basic))["subject"] == {"reference": "Group/g"}
    assert (await put_in.document(basic))["link"] == {"url": f"Practitioner/{uuid(ONE)}"}
    assert ("Patient", "a", "Practitioner", uuid(ONE)) in await put_in.references()


BAD_ENTRIES = [
    (entry("GET", "Patient/a"), "request.method is not PUT, POST or DELETE"),
    (entry("PATCH", "Patient/a", resource("Binary", "a")), "request.method is not PUT, POST or DELETE"),
    ({"resource": resource("Patient", "a")}, "has no request"),
    (entry("PUT", "Patient/a"), "has no resource"),
    (entry("PUT", "Patient/b", resource("Patient", "a")), "request.url and the resource differ in id"),
    (entry("PUT", "Patient/b", {"resourceType": "Patient"}), "request.url and the resource differ in id"),
    (entry("PUT", "Patient/a", resource("Group", "a")), "request.url and the resource differ in type"),
    (entry("PUT", "Patient", resource("Patient", "a")), "request.url is not Type/id, and not Type?identifier=system|value"),
    (entry("PUT", "Patient?name=SECRET", resource("Patient", "a")), "a condition is not identifier=system|value"),
    (entry("POST", "patient", {"resourceType": "patient"}), "request.url does not begin with a type's name"),
    (entry("POST", "Patient", {"resourceType": "Patient"}, full_url="urn:uuid:a_b"), "fullUrl holds no id"),
    (entry("PUT", "Patient/a", patient("a", TWO)), "a reference leads to no entry of the Bundle"),
    (entry("PUT", "Patient/a", patient("a", to("404"))), "a conditional reference to Practitioner is met by no resource"),
    (entry("PUT", "Patient/a", patient("a", to("2"))), "a conditional reference to Practitioner is met by several resources"),
    (entry("PUT", "Patient/a", patient("a", "Practitioner?name=SECRET")), "a condition is not identifier=system|value"),
    (entry("DELETE", to("2")), "its condition is met by several resources"),
    (entry("PUT", to("1"), practitioner("other", "1")), "its condition is met by a resource with another id"),
    ({"resource": {}, "request": "SECRET"}, "not an entry: Expected `object | null`, got `str` - at `$.request`"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ENTRIES)
async def test_bad_entries(put_in: Import, bad: dict[str, Any], reason: str) -> None:
    """A bad entry is reported; of a batch the rest goes in, of a transaction nothing."""
    await put_in(practitioner("p1", "1"), practitioner("p2", "2"), practitioner("p3", "2"))
    before = await put_in.versions()
    together = f"entry 2: {reason}; nothing of this transaction is imported"
    good = entry("PUT", "Basic/good", resource("Basic", "good"))
    assert await put_in(bundle("transaction", good, bad)) == [(1, together)]
    assert await put_in.versions() == before
    assert await put_in(bundle("batch", good, bad)) == [(1, f"entry 2: {reason}")]
    assert await put_in.versions() == {**before, "Basic/good": 1}


async def test_bad_bundles(put_in: Import) -> None:
    """A Bundle of another kind, or that is none, is one bad line."""
    bad = await put_in(bundle("document"), {"resourceType": "Bundle"}, {"resourceType": "Bundle", "type": "batch", "entry": {}})
    assert [line for line, _ in bad] == [1, 2, 3]
    assert bad[0][1].startswith("Bundle.type is none of those that are imported")
    assert bad[2][1] == "not a Bundle: Expected `array`, got `object` - at `$.entry`"


async def test_a_transaction_writes_a_resource_once(put_in: Import) -> None:
    """A transaction in which two entries write the same resource otherwise is bad as a whole."""
    two = (entry("PUT", "Patient/a", resource("Patient", "a")), entry("DELETE", "Patient/a"))
    assert await put_in(bundle("transaction", *two)) == [
        (1, "entry 2: another entry writes the same resource; nothing of this transaction is imported")
    ]
    same = entry("POST", "Basic", {"resourceType": "Basic"})
    assert await put_in(bundle("transaction", same, same), bundle("batch", *two)) == []
    assert list((await put_in.versions()).values()) == [1]


async def test_conditional_references(put_in: Import) -> None:
    """They lead to the Bundle's own entries first, else to what is stored, with a system, without one, and escaped."""
    await put_in(practitioner("stored", "1"), practitioner("stored-too", "2"))
    made = bundle(
        "transaction",
        entry("PUT", "Patient/own", patient("own", to("1"))),
        entry("PUT", "Patient/any", patient("any", "Practitioner?identifier=2")),
        entry(
            "PUT", "Patient/coded", patient("coded", "Practitioner?identifier=http%3A%2F%2Fhl7.org%2Ffhir%2Fsid%2Fus-npi%7C2")
        ),
        entry("PUT", "Practitioner/mine", practitioner("mine", "1")),
    )
    assert await put_in(encoded(made).replace(b"/sid/", b"\\/sid\\/")) == []
    assert [row for row in await put_in.references() if row[0] == "Patient"] == [
        ("Patient", "any", "Practitioner", "stored-too"),
        ("Patient", "coded", "Practitioner", "stored-too"),
        ("Patient", "own", "Practitioner", "mine"),
    ]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", ["batch", "transaction"])
async def test_what_comes_later(put_in: Import, kind: str, strict: bool) -> None:
    """A Bundle that refers to resources later in the files goes in when they are: the files' order is of no weight."""
    first = bundle(kind, entry("PUT", "Patient/a", patient("a", to("1"))), entry("PUT", "Basic/b", resource("Basic", "b")))
    second = bundle(
        kind,
        entry("POST", "Practitioner", practitioner("x", "1") | {"extension": [{"valueReference": {"reference": to("2")}}]}),
    )
    assert await put_in(first, second, practitioner("p2", "2"), strict=strict) == []
    versions = await put_in.versions()
    assert len(versions) == 4
    assert set(versions.values()) == {1}
    assert ("Practitioner", "p2") in [row[2:] for row in await put_in.references()]


async def test_what_never_comes(put_in: Import) -> None:
    """What still waits at the end is reported; nothing is reported twice because something else was tried again."""
    waiting = entry("PUT", "Patient/a", patient("a", to("404")))
    made = bundle("batch", waiting, entry("PUT", "Basic/b", resource("Basic", "b")), waiting, entry("GET", "Patient"))
    reason = "a conditional reference to Practitioner is met by no resource"
    assert await put_in(made, b"[]", practitioner("p")) == [
        (1, "entry 4: request.method is not PUT, POST or DELETE"),
        (2, "not a JSON object"),
        (1, f"entry 1: {reason}"),
        (1, f"entry 3: {reason}"),
    ]


async def test_a_bad_transaction_does_not_wait(put_in: Import) -> None:
    """When more is wrong with a transaction than what it waits for, that is told."""
    waiting = entry("PUT", "Patient/a", patient("a", to("404")))
    assert await put_in(bundle("transaction", waiting, entry("GET", "Patient"))) == [
        (1, "entry 2: request.method is not PUT, POST or DELETE; nothing of this transaction is imported")
    ]


async def test_if_none_exist(put_in: Import) -> None:
    """A POST with ifNoneExist makes nothing when one is stored, and references to it lead there."""
    made = bundle(
        "transaction",
        entry("POST", "Practitioner", practitioner("x"), full_url=ONE, if_none_exist=f"identifier={NPI}|1"),
        entry("PUT", "Patient/a", patient("a", ONE)),
        entry("POST", "Practitioner", practitioner("x"), full_url=TWO, if_none_exist=f"identifier={NPI}|1"),
        entry("PUT", "Patient/b", patient("b", TWO)),
    )
    assert await put_in(made, made) == []
    assert await put_in.versions() == {f"Practitioner/{uuid(ONE)}": 1, "Patient/a": 1, "Patient/b": 1}
    await put_in(bundle("batch", entry("DELETE", f"Practitioner/{uuid(ONE)}")), practitioner("kept"), made)
    assert [row[3] for row in await put_in.references()] == ["kept", "kept"]


async def test_conditional_put(put_in: Import) -> None:
    """A conditional PUT updates the one that meets its condition, else makes one."""
    made = entry("PUT", to("1"), {**practitioner("x"), "active": True}, full_url=ONE)
    del made["resource"]["id"]
    await put_in(bundle("batch", made))
    assert await put_in.versions() == {f"Practitioner/{uuid(ONE)}": 1}
    made["resource"]["active"] = False
    del made["fullUrl"]
    await put_in(bundle("batch", made))
    assert await put_in.versions() == {f"Practitioner/{uuid(ONE)}": 2}


async def test_only_links_are_rewritten(put_in: Import) -> None:
    """The rest of a resource whose references are resolved is kept to the byte, and text that speaks of a link is no link."""
    text = b'"text":{"div":"<a>\\"reference\\":\\"%b\\"</a>"},"n":5.60,"x" : [ "%b" ]' % (ONE.encode(), ONE.encode())
    raw = b'{"resourceType":"Basic","id":"b",%b,"subject":{"reference" : "%b","d":1e3}}' % (text, ONE.encode())
    made = encoded(
        bundle("batch", entry("PUT", "Group/g", resource("Group", "g"), full_url=ONE), entry("PUT", "Basic/b", {"x": 1}))
    )
    assert await put_in(made.replace(b'{"x":1}', raw)) == []
    _, body = (await stored(put_in.database, put_in.tenant_id))["Basic/b"]
    assert body.endswith(text.replace(b'"x" : [', b'"x":[') + b',"subject":{"reference" : "Group/g","d":1e3}}')


async def test_many_transactions_in_a_file(put_in: Import) -> None:
    """Of transactions that go in together, one that the database refuses takes no other with it."""
    lines = [
        bundle("transaction", *(entry("PUT", f"Patient/{n}-{m}", resource("Patient", f"{n}-{m}")) for m in range(3)))
        for n in range(20)
    ]
    await refuse(put_in.database, "7-1")
    assert await put_in(*lines) == [(8, "the database does not take it (SQLSTATE 22P05)")]
    assert len(await put_in.versions()) == 19 * 3


async def test_whole_file(put_in: Import, tmp_path: Path) -> None:
    """A Bundle over many lines is one document, whatever its file is called, and is reported by its first line."""
    made = bundle("collection", {"resource": resource("Patient", "a")}, {"resource": {"resourceType": "Patient"}})
    for name in ("one.json", "one.ndjson", "one"):
        file = tmp_path / name
        file.write_text("\n\n" + json.dumps(made, indent=2))
        _, bad = await imported(put_in.database, put_in.tenant_id, file)
        assert [(line.file, line.line, line.reason) for line in bad] == [(file, 3, "entry 2: id is missing")]
    assert await put_in.versions() == {"Patient/a": 1}


async def test_lines_whose_first_is_bad(put_in: Import, tmp_path: Path) -> None:
    """A file of lines stays one, though its first lines are cut off."""
    file = write_lines(tmp_path / "a.json", [b'{"resourceType":"Patient",', b"bad", resource("Patient", "a")])
    _, bad = await imported(put_in.database, put_in.tenant_id, file)
    assert [line.line for line in bad] == [1, 2]
    assert await put_in.versions() == {"Patient/a": 1}


async def test_synthea(put_in: Import, shared_data: Path, tmp_path: Path) -> None:
    """Transactions as Synthea writes them, patients first, go in as the resources that a server has made of them."""
    folder = tmp_path / "fhir"
    folder.mkdir()
    lines = (shared_data / "fhir" / "synthea" / "Practitioner.ndjson").read_bytes().splitlines()
    npis = {made["id"]: made["identifier"][0]["value"] for made in map(json.loads, lines)}
    entries = [entry("POST", "Practitioner", json.loads(line), full_url=f"urn:uuid:{json.loads(line)['id']}") for line in lines]
    (folder / "practitionerInformation.json").write_text(json.dumps(bundle("batch", *entries), indent=2))
    own: dict[str, list[dict[str, Any]]] = {}
    for kind in ("Patient", "Encounter"):
        for line in (shared_data / "fhir" / "synthea" / f"{kind}.ndjson").read_bytes().splitlines():
            made = json.loads(line)
            owner = made["id"] if kind == "Patient" else made["subject"]["reference"].removeprefix("Patient/")
            own.setdefault(owner, []).append(entry("POST", kind, made, full_url=f"urn:uuid:{made['id']}"))
    for owner, entries_of in list(own.items())[:60]:
        text = json.dumps(bundle("transaction", *entries_of), indent=2)
        for npi_id, npi in npis.items():
            text = text.replace(f'"Practitioner/{npi_id}"', f'"{to(npi)}"')
        (folder / f"Aaron_{owner}.json").write_text(text.replace(f'"Patient/{owner}"', f'"urn:uuid:{owner}"'))
    for _ in range(2):
        _, bad = await imported(put_in.database, put_in.tenant_id, folder)
        assert bad == []
    kept = await stored(put_in.database, put_in.tenant_id)
    assert {version for version, _ in kept.values()} == {1}
    assert len(kept) == len(lines) + sum(len(entries_of) for entries_of in list(own.values())[:60])
    for entries_of in list(own.values())[:60]:
        for made in (entry_of["resource"] for entry_of in entries_of):
            body = json.loads(kept[f"{made['resourceType']}/{made['id']}"][1])
            assert body | {"meta": None} == made | {"meta": None}
