"""_sort: the order of a list, and pages of it that neither repeat nor drop a match."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from storage.embedded import Cluster
from tests.reading import reading
from tests.search_data import generated
from tests.search_model import Model
from tests.support import (
    PATHS,
    Asker,
    Home,
    add_tenant,
    build_home,
    connected,
    cursor_of,
    diagnosed,
    encounter,
    following,
    ids,
    patient,
    self_pairs,
    store,
    walk,
)

MODEL = Model(generated())
ORDERS = {
    "Patient": [
        "family", "-family", "given", "-given", "name", "birthdate", "-birthdate", "_lastUpdated", "-_lastUpdated", "_id",
        "-_id",
        "gender", "-gender", "active,family", "identifier", "-identifier", "organization", "-general-practitioner", "deceased",
        "phonetic", "-address-city,birthdate,-_id", "gender,-birthdate,family", "-active,_lastUpdated,given", "telecom", "_tag",
    ],
    "Encounter": [
        "date", "-date", "-date,_id", "date,-_id", "-date,status", "status,-date", "length", "-length", "location-period",
        "-location-period", "class,type,-length", "patient", "-practitioner",
    ],
    "Claim": ["created", "-created,status", "priority", "-provider"],
}  # fmt: skip


async def walked(ask: Asker, url: str) -> list[str]:
    return [name for page in await walk(ask, url) for name in page]


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("path", PATHS)
async def test_orders(hospital: Home, path: str, kind: str) -> None:
    """Rule 22: a list in any order, by one to three keys, is the model's; what has no value comes last, either way."""
    people = kind == "Patient"
    async with reading(hospital, path) as ask:
        for sort in ORDERS[kind]:
            for query in ("", "active=true", "birthdate=ge1974", "family=M") if people else ("", "status=planned", "class=AMB"):
                if kind == "Claim" and query.startswith("class"):
                    continue
                pairs = [tuple(part.split("=", 1)) for part in query.split("&") if part]
                expected = MODEL.found(kind, pairs, sort=sort)  # type: ignore[arg-type]
                count = 1000 if path == "channel" and query else 23
                assert await walked(ask, f"/fhir/{kind}?{query}&_sort={sort}&_count={count}") == expected, (sort, query)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("path", PATHS)
async def test_small_pages(hospital: Home, path: str, count: int) -> None:
    """Rule 22: small pages, with equal keys and missing values across their ends, give each match once, in order."""
    async with reading(hospital, path) as ask:
        for kind, sort, pair in (
            ("Practitioner", "family", ("active", "true")),
            ("Practitioner", "-gender", ("gender:not", "other")),
            ("Patient", "-birthdate,given", ("gender", "male")),
            ("Patient", "birthdate", ("gender", "male")),
            ("Encounter", "date", ("status", "planned")),
            ("Encounter", "-length,_lastUpdated", ("class", "IMP")),
        ):
            expected = MODEL.found(kind, [pair], sort=sort)
            assert len(expected) > 5
            url = f"/fhir/{kind}?{pair[0]}={pair[1]}&_sort={sort}&_count={count}"
            if count == 1:  # every page; of the others, the first, the last, and where one goes on from another
                assert await walked(ask, url) == expected, (sort, kind)
            else:
                assert await walked(ask, url.replace(f"_count={count}", f"_count={count * 3}")) == expected, (sort, kind)
                assert ids(await ask(url)) == expected[:count]


async def _fill(home: Home) -> None:
    """Names whose later words sort otherwise than they do, ties, and ends of time."""
    people = [
        patient("van", name=[{"family": "van der Berg"}], birthDate="1980"),
        patient("berg", name=[{"family": "Berg"}], birthDate="9999-12-31"),
        patient("meier", name=[{"family": "Öhler-Arnold"}, {"family": "Zapf"}], birthDate="0001"),
        patient("zapf", name=[{"family": "zapf"}], birthDate="1980-01-01"),
        patient("none"),
        patient("nobody", name=[{"given": ["A"]}], birthDate="1979-12-31"),
    ]
    visits = [
        encounter("late", "9999-12-31T23:59:59.999999Z"),
        encounter("later", "9999-12-31T23:30:00-05:00"),
        encounter("early", "0001-01-01T00:00:00+14:00"),
        encounter("open", period={"end": "2020"}),
        encounter("now", "2020-01-01"),
        encounter("undated"),
    ]
    home.keys["one"] = await add_tenant(home.database, "one", [*people, *visits])
    home.keys["two"] = await add_tenant(home.database, "two", people)


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "sorting", _fill)


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("path", PATHS)
async def test_what_counts(home: Home, path: str, count: int) -> None:
    """Rule 22: whole names are sorted, not their later words; of several the least, or going down the greatest."""
    answers = {
        "Patient?_sort=family": ["berg", "meier", "van", "zapf", "nobody", "none"],
        "Patient?_sort=-family": ["zapf", "meier", "van", "berg", "none", "nobody"],
        "Patient?_sort=family,birthdate": ["berg", "meier", "van", "zapf", "nobody", "none"],
        "Patient?_sort=-family,-birthdate": ["zapf", "meier", "van", "berg", "nobody", "none"],
        "Patient?_sort=birthdate": ["meier", "nobody", "van", "zapf", "berg", "none"],
        "Patient?_sort=-birthdate": ["berg", "zapf", "van", "nobody", "meier", "none"],
        "Patient?_sort=birthdate,-_id": ["meier", "nobody", "zapf", "van", "berg", "none"],
        "Encounter?_sort=date": ["early", "open", "now", "late", "later", "undated"],
        "Encounter?_sort=-date,_lastUpdated": ["late", "later", "now", "early", "open", "undated"],
        "Encounter": ["late", "later", "now", "early", "open", "undated"],
    }
    async with reading(home, path) as ask:
        for question, expected in answers.items():
            join = "&" if "?" in question else "?"
            assert await walked(ask, f"/fhir/{question}{join}_count={count}") == expected, question


@pytest.mark.parametrize("path", PATHS)
async def test_dropped_keys(home: Home, path: str) -> None:
    """Rule 22: an unknown key is dropped from order and self link, refused when handling is strict; so are too many."""
    async with reading(home, path) as ask:
        for given, kept in (
            ("unknown,family", "family"), ("-unknown", ""), ("family,-family", "family"), ("-_id,family", "-_id,family"),
            ("", ""),
            ("name:exact", ""), ("patient.name", ""), ("--family", ""), ("family,,given", "family,given"), (" family", ""),
        ):  # fmt: skip
            reply = await ask(f"/patients?_sort={quote(given)}")
            assert dict(self_pairs(reply)).get("_sort", "") == kept, given
            if given not in ("", kept, "family,-family"):
                told = await ask(f"/patients?_sort={quote(given)}", Prefer="handling=strict")
                diagnosed(told, 400, "invalid")
                assert told.json["issue"][0]["expression"] == ["_sort"]
        assert ids(await ask("/patients?_sort=unknown,-family")) == ids(await ask("/patients?_sort=-family"))
        diagnosed(await ask("/patients?_sort=family,given,gender,birthdate,active"), 400, "invalid")


@pytest.mark.parametrize("path", PATHS)
async def test_cursor_is_of_one_order(home: Home, path: str) -> None:
    """Rule 14: a sorted list's cursor is refused by another order, another list and another tenant; it shows no name."""
    async with reading(home, path) as ask:
        first = await ask("/patients?_sort=family&_count=2")
        cursor = cursor_of(first)
        assert "berg" not in (following(first) or "").lower()
        for tenant, url in (
            ("two", "/patients?_sort=family"), ("one", "/patients"), ("one", "/patients?_sort=-family"),
            ("one", "/practitioners?_sort=family"),
            ("one", "/patients?_sort=family,given"), ("one", "/patients?_sort=name"),
            ("one", "/patients?_sort=family&active=true"),
        ):  # fmt: skip
            join = "&" if "?" in url else "?"
            reply = await ask(f"{url}{join}_cursor={cursor}", tenant)
            diagnosed(reply, 400, "invalid")
            assert reply.json["issue"][0]["expression"] == ["_cursor"]
        assert ids(await ask(f"/patients?_sort=family&_cursor={cursor}&_count=1000")) == ["van", "zapf", "nobody", "none"]


def _crowd(range_: range, **more: Any) -> list[dict[str, Any]]:
    return [
        patient(f"p{n:03}", name=[{"family": f"F{n % 7}"}], birthDate=f"19{10 + n % 50}", gender="male", **more) for n in range_
    ]


@pytest.mark.parametrize("path", PATHS)
async def test_changes_between_pages(home: Home, path: str) -> None:
    """Rule 14: while others come, change and go between pages and under them, what stays as it is comes once, in order."""
    tenant = f"busy-{path}"
    home.keys[tenant] = await add_tenant(home.database, tenant, _crowd(range(100)))
    stay = {f"p{n:03}" for n in range(100) if n % 3}
    turn = 0

    async def disturb() -> None:
        nonlocal turn
        async with connected(home.database) as connection:
            while True:
                turn += 1
                changed = [n for n in range(100) if n % 3 == 0]
                await store(
                    connection, tenant, [each for n in changed for each in _crowd(range(n, n + 1), active=bool(turn % 2))]
                )
                await store(connection, tenant, _crowd(range(100 + turn * 3, 103 + turn * 3)))
                await asyncio.sleep(0.001)

    async with reading(home, path) as ask:
        for sort in ("", "_sort=family", "_sort=-birthdate", "_sort=gender,-family", "_sort=_lastUpdated"):
            begun, seen = turn, []
            task = asyncio.create_task(disturb())
            try:
                step: str | None = f"/patients?gender=male&{sort}&_count=7"
                while step:
                    reply = await ask.once(step, tenant)
                    seen += [entry["resource"] for entry in reply.json.get("entry", [])]
                    step = following(reply)
                    await asyncio.sleep(0.002)
                    if len(seen) > 120:  # enough has been added; now the list's end must come
                        task.cancel()
            finally:
                task.cancel()
                await asyncio.wait([task])
            assert turn > begun
            names = [resource["id"] for resource in seen if resource["id"] in stay]
            assert sorted(names) == sorted(stay), sort
            if sort == "_sort=family":
                families = [(resource["name"][0]["family"], resource["id"]) for resource in seen if resource["id"] in stay]
                assert families == sorted(families)
