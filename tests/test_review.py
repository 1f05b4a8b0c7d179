"""The review of an encounter: what is in it, and its money, exact to the digit."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r4.review import MONEY_URL, money_meta
from storage.embedded import Cluster
from tests.reading import reading
from tests.support import (
    NOW,
    PATHS,
    Home,
    Reply,
    add_tenant,
    build_home,
    bundle_of,
    connected,
    cursor_of,
    delete,
    diagnosed,
    encounter,
    following,
    patient,
    store,
)  # fmt: skip

Json = dict[str, Any]
PARTS = ("submitted", "paid", "taken-back", "denied", "pending")


def ref(name: str) -> Json:
    return {"reference": name}


def claim(key: str, visit: str | None, total: Json | None = None, *coverages: str) -> Json:
    items = [{"sequence": 1, "encounter": [ref(f"Encounter/{visit}")], "productOrService": {"text": "x"}}] if visit else []
    return {
        "resourceType": "Claim",
        "id": key,
        "status": "active",
        "use": "claim",
        "type": {"text": "x"},
        "created": "2024-01-01",
        "patient": ref("Patient/a"),
        "provider": ref("Organization/org"),
        "priority": {"text": "normal"},
        "insurance": [
            {"sequence": n, "focal": n == 1, "coverage": ref(name)} for n, name in enumerate(coverages or ["Coverage/cov"], 1)
        ],
        **({"item": items} if items else {}),
        **({"total": total} if total else {}),
    }


def answer(kind: str, key: str, to: str, **more: Any) -> Json:
    explains = kind == "ExplanationOfBenefit"
    return {
        "resourceType": kind,
        "id": key,
        "status": "active",
        "use": "claim",
        "type": {"text": "x"},
        "created": "2024-02-01",
        "patient": ref("Patient/a"),
        "insurer": ref("Organization/payer"),
        "outcome": "complete",
        "claim" if explains else "request": ref(to),
        **({"provider": ref("Organization/org"), "insurance": [INSURED]} if explains else {}),
        **more,
    }


INSURED = {"focal": True, "coverage": ref("Coverage/cov")}


def total(code: str, value: float | Decimal, currency: str = "AED") -> Json:
    return {"category": {"coding": [{"code": code}]}, "amount": {"value": value, "currency": currency}}


def paid(value: float, currency: str) -> Json:
    return {"type": {"text": "x"}, "amount": {"value": value, "currency": currency}}


def _world() -> list[Json]:
    """An encounter `e` with everything around it, and things that are near and must stay out."""
    return [
        encounter(
            "e",
            "2024-01-01",
            subject=ref("Patient/a"),
            serviceProvider=ref("Organization/org"),
            participant=[{"individual": ref("Practitioner/p")}],
            diagnosis=[{"condition": ref("Condition/dx")}],
            location=[{"location": ref("Location/gone")}],
        ),
        encounter("part", "2024-01-01", partOf=ref("Encounter/e"), subject=ref("Patient/a")),
        encounter("other", "2024-01-02", subject=ref("Patient/a")),
        encounter("gone", "2024-01-03"),
        encounter("lonely"),
        patient("a"),
        patient("b"),
        {"resourceType": "Organization", "id": "org", "name": "House"},
        {"resourceType": "Organization", "id": "payer", "name": "Payer"},
        {"resourceType": "Practitioner", "id": "p"},
        {"resourceType": "Location", "id": "gone"},
        {"resourceType": "Condition", "id": "dx", "subject": ref("Patient/a"), "encounter": ref("Encounter/e")},
        {"resourceType": "Condition", "id": "else", "subject": ref("Patient/a"), "encounter": ref("Encounter/other")},
        *({"resourceType": "Procedure", "id": f"pr{n}", "status": "completed", "subject": ref("Patient/a"),
           "encounter": ref("Encounter/e")} for n in range(9)),
        {"resourceType": "Coverage", "id": "cov", "status": "active", "beneficiary": ref("Patient/a"),
         "payor": [ref("Organization/payer")]},
        {"resourceType": "Coverage", "id": "cov2", "status": "active", "beneficiary": ref("Patient/a"),
         "payor": [ref("Organization/payer")]},
        claim("c1", "e", {"value": 100.10, "currency": "AED"}),
        claim("c2", "e", {"value": 7, "currency": "USD"}, "Coverage/cov", "Coverage/cov2"),
        claim("c3", "e", {"value": 0.30, "currency": "AED"}),
        claim("c-gone", "e", {"value": 99, "currency": "AED"}),
        claim("c-other", "other", {"value": 1000, "currency": "AED"}),
        answer("ExplanationOfBenefit", "eob1", "Claim/c1", total=[
            total("submitted", 100.10), total("benefit", 60.05), total("denied", 10), total("taken-back", 0.05),
            total("tax", 5)]),
        answer("ClaimResponse", "cr1", "Claim/c1", payment=paid(55, "AED")),
        answer("ClaimResponse", "cr2", "Claim/c2", payment=paid(2.5, "USD")),
        answer("ClaimResponse", "cr-other", "Claim/c-other"),
    ]  # fmt: skip


INSIDE = {
    "Encounter/e", "Encounter/part", "Patient/a", "Organization/org", "Practitioner/p", "Condition/dx", "Claim/c1", "Claim/c2",
    "Claim/c3", "ExplanationOfBenefit/eob1", "ClaimResponse/cr1", "ClaimResponse/cr2", "Coverage/cov", "Coverage/cov2",
    *(f"Procedure/pr{n}" for n in range(9)),
}  # fmt: skip
MONEY = {
    "AED": {"submitted": "100.40", "paid": "60.05", "taken-back": "0.05", "denied": "10", "pending": "30.30"},
    "USD": {"submitted": "7", "paid": "2.5", "taken-back": "0", "denied": "0", "pending": "4.5"},
}


async def _fill(home: Home) -> None:
    home.keys["one"] = await add_tenant(home.database, "one", _world())
    home.keys["two"] = await add_tenant(home.database, "two", [claim("foreign", "e", {"value": 5, "currency": "AED"})])
    await delete(home.database, "one", ("Encounter", "gone"), ("Claim", "c-gone"), ("Location", "gone"))


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "review", _fill)


def names(reply: Reply) -> list[str]:
    return [f"{entry['resource']['resourceType']}/{entry['resource']['id']}" for entry in reply.json.get("entry", [])]


def money(bundle: bytes) -> dict[str, dict[str, Decimal]]:
    """The amounts by currency, with their digits."""
    decoded = msgspec.json.decode(bundle, type=dict[str, msgspec.Raw])
    return money_of(bytes(decoded["meta"])) if "meta" in decoded else {}


class _Amount(msgspec.Struct):
    value: Decimal
    currency: str = ""


class _Part(msgspec.Struct):
    url: str
    valueMoney: _Amount  # noqa: N815  # FHIR's name


class _Group(msgspec.Struct):
    url: str
    extension: list[_Part]


class _Meta(msgspec.Struct):
    extension: list[_Group]


def money_of(meta: bytes) -> dict[str, dict[str, Decimal]]:
    groups = msgspec.json.decode(meta, type=_Meta).extension
    assert all(group.url == MONEY_URL for group in groups)
    assert all({part.valueMoney.currency for part in group.extension} for group in groups)
    return {
        group.extension[0].valueMoney.currency: {part.url: part.valueMoney.value for part in group.extension}
        for group in groups
    }


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_in_it(home: Home, path: str) -> None:
    """The encounter is the match; what it names, what names it, its claims' answers and coverages come once each."""
    async with reading(home, path) as ask:
        reply = await ask("/reviews/e")
        assert reply.path == path
        assert reply.body == (await ask("/fhir/Encounter/e/$everything")).body
        listed = names(reply)
        assert len(listed) == len(set(listed))
        assert set(listed) == INSIDE
        modes = {name: entry["search"]["mode"] for name, entry in zip(listed, bundle_of(reply)["entry"], strict=True)}
        assert [name for name, mode in modes.items() if mode == "match"] == ["Encounter/e"]
        assert set(modes.values()) == {"match", "include"}
        assert listed[0] == "Encounter/e"


@pytest.mark.parametrize("path", PATHS)
async def test_money(home: Home, path: str) -> None:
    """Money is summed by currency to the digit: from explanations by category, else from payments; the rest is pending."""
    async with reading(home, path) as ask:
        body = (await ask("/reviews/e")).body
        wanted = {currency: {part: Decimal(text) for part, text in parts.items()} for currency, parts in MONEY.items()}
        assert money(body) == wanted
        assert money((await ask("/reviews/lonely")).body) == {}
        assert b'"meta"' not in (await ask("/reviews/lonely")).body.partition(b'"entry"')[0]


@pytest.mark.parametrize("count", [1, 4, 22, 23, 24])
@pytest.mark.parametrize("path", PATHS)
async def test_pages(home: Home, path: str, count: int) -> None:
    """The pages of a review are together the whole, in its order, and each has the same money."""
    async with reading(home, path) as ask:
        whole = await ask("/reviews/e")
        seen: list[str] = []
        step: str | None = f"/reviews/e?_count={count}"
        while step is not None:
            reply = await ask(step)
            assert money(reply.body) == money(whole.body)
            assert len(names(reply)) == min(count, len(INSIDE) - len(seen))
            seen += names(reply)
            step = following(reply)
        assert seen == names(whole)


@pytest.mark.parametrize("path", PATHS)
async def test_narrowed(home: Home, path: str) -> None:
    """Rule 26: `_type` and `_since` narrow what is shown around the encounter, on every page, and never the money."""
    tenant = f"narrowed-{path}"
    home.keys[tenant] = await add_tenant(home.database, tenant, _world())
    await delete(home.database, tenant, ("Claim", "c-gone"), ("Location", "gone"))
    async with connected(home.database) as connection:
        changed = [patient("a", active=True), claim("c3", "e", {"value": 0.30, "currency": "AED"}) | {"status": "draft"}]
        await store(connection, tenant, changed, NOW + timedelta(days=40))
    async with reading(home, path) as ask:
        whole = await ask("/reviews/e", tenant)
        for query, kept in (
            ("_type=Claim", ["Claim/c1", "Claim/c2", "Claim/c3"]),
            ("_type=Procedure,Patient", ["Patient/a", *(f"Procedure/pr{n}" for n in range(9))]),
            ("_type=ClaimResponse&_type=Coverage", ["ClaimResponse/cr1", "ClaimResponse/cr2", "Coverage/cov", "Coverage/cov2"]),
            ("_type=Encounter", ["Encounter/part"]),
            ("_type=Goal", []),
            ("_since=2026-02-01", ["Claim/c3", "Patient/a"]),
            ("_since=2026-02-01&_type=Patient", ["Patient/a"]),
            ("_since=2027", []),
            ("_since=2026-01-02&_type=", names(whole)[1:]),
        ):
            for count in (1, 3, 1000):
                found: list[str] = []
                step: str | None = f"/reviews/e?{query}&_count={count}"
                while step is not None:
                    reply = await ask(step, tenant)
                    assert reply.path == path
                    assert money(reply.body) == money(whole.body)
                    assert len(names(reply)) <= count
                    found += names(reply)
                    step = following(reply)
                assert found == ["Encounter/e", *kept], (query, count)
        for broken in ("_type=Foo", "_type=claim", "_since=x", "_since=2026-13"):
            refused = await ask(f"/reviews/e?{broken}", tenant)
            assert diagnosed(refused, 400, "invalid")
            assert refused.json["issue"][0]["expression"] == [broken.partition("=")[0]]
        strict = await ask("/reviews/e?start=2024", tenant, Prefer="handling=strict")
        assert diagnosed(strict, 400, "invalid")


async def test_narrowed_in_one_batch(home: Home) -> None:
    """Reviews that are narrowed differently share a statement, and each has its own answer."""
    queries = ["", "_type=Claim", "_type=Procedure,Patient", "_since=2027", "_count=2", "_type=Coverage&_count=1"] * 4
    async with reading(home, "channel") as ask:
        replies = await asyncio.gather(*(ask.once(f"/reviews/e?{query}") for query in queries))
        assert {reply.path for reply in replies} == {"channel"}
        for query, reply in zip(queries, replies, strict=True):
            assert reply.body == (await ask.once(f"/reviews/e?{query}", X_Sluice_Force="direct")).body


@pytest.mark.parametrize("path", PATHS)
async def test_narrowed_links(home: Home, path: str) -> None:
    """Rules 10 and 14: self and next keep what narrows, and a cursor is good for that alone."""
    async with reading(home, path) as ask:
        pairs = [("_since", "2020-01-01"), ("_type", "Procedure,Claim")]
        query = "&".join(f"{name}={value}" for name, value in pairs)
        reply = await ask(f"/fhir/Encounter/e/$everything?{query}&_count=2&start=2024")
        for link in bundle_of(reply)["link"]:
            shown = parse_qsl(urlsplit(link["url"]).query)
            assert [pair for pair in shown if pair[0] != "_cursor"] == [*pairs, ("_count", "2")]
        cursor = cursor_of(reply)
        assert (await ask(f"/reviews/e?_type=Procedure,Claim&_since=2020-01-01&_cursor={cursor}")).status == 200
        for other in ("", "_type=Procedure,Claim&", "_type=Claim&_since=2020-01-01&", f"{query}&_type=Goal&"):
            assert diagnosed(await ask(f"/reviews/e?{other}_cursor={cursor}"), 400, "invalid")


@pytest.mark.parametrize("path", PATHS)
async def test_not_there(home: Home, path: str) -> None:
    """An unknown encounter's review is 404 and a deleted one's 410; so is another tenant's, whatever points at it there."""
    async with reading(home, path) as ask:
        for url in ("/reviews/zz", "/fhir/Encounter/zz/$everything", "/reviews/a"):
            assert diagnosed(await ask(url), 404, "not-found")
        assert diagnosed(await ask("/reviews/gone"), 410, "deleted")
        assert diagnosed(await ask("/reviews/e", "two"), 404, "not-found")
        for broken in ("0", "-1", "x", "1e3"):
            assert diagnosed(await ask(f"/reviews/e?_count={broken}"), 400, "invalid")
        assert diagnosed(await ask("/reviews/a_b"), 400, "invalid")
        assert diagnosed(await ask("/reviews/e?_cursor=x"), 400, "invalid")


@pytest.mark.parametrize("path", PATHS)
async def test_changed_money_is_another_etag(home: Home, path: str) -> None:
    """A review is unchanged as long as all around it is."""
    tenant = f"moving-{path}"
    home.keys[tenant] = await add_tenant(home.database, tenant, [encounter("e"), claim("c", "e", {"value": 1})])
    async with reading(home, path) as ask:
        first = await ask("/reviews/e", tenant)
        assert (await ask("/reviews/e", tenant, If_None_Match=first.headers["ETag"])).status == 304
        await delete(home.database, tenant, ("Claim", "c"))
        second = await ask("/reviews/e", tenant, If_None_Match=first.headers["ETag"])
        assert (second.status, names(second)) == (200, ["Encounter/e"])


# The sums alone.


def rendered(*resources: Json) -> dict[str, dict[str, Decimal]]:
    meta = money_meta((resource["resourceType"], msgspec.json.encode(resource)) for resource in resources)
    return money_of(meta) if meta else {}


amounts = st.decimals(min_value=0, max_value=10**12, places=3)


@given(st.lists(st.tuples(amounts, amounts, amounts, st.sampled_from(["AED", "USD", ""])), min_size=1, max_size=8))
def test_sums_are_exact(parts: list[tuple[Decimal, Decimal, Decimal, str]]) -> None:
    """Whatever the amounts, the sums are those of decimal arithmetic, and pending is never below nothing."""
    resources: list[Json] = []
    wanted: dict[str, dict[str, Decimal]] = {}
    for n, (submitted, paid, denied, currency) in enumerate(parts):
        told = {"submitted": submitted, "benefit": paid, "denied": denied}
        totals = [total(code, amount, currency) for code, amount in told.items()]
        resources.append(claim(f"c{n}", "e", {"value": submitted, "currency": currency}))
        resources.append(answer("ExplanationOfBenefit", f"x{n}", f"Claim/c{n}", total=totals))
        sums = wanted.setdefault(currency, dict.fromkeys(PARTS, Decimal(0)))
        for part, amount in (("submitted", submitted), ("paid", paid), ("denied", denied)):
            sums[part] += amount
        sums["pending"] += max(submitted - paid - denied, Decimal(0))
    assert rendered(*[_with_numbers(resource) for resource in resources]) == wanted


def _with_numbers(resource: Any) -> Any:
    """Decimals as JSON numbers with their digits."""
    if isinstance(resource, dict):
        return {name: _with_numbers(value) for name, value in resource.items()}
    if isinstance(resource, list):
        return [_with_numbers(value) for value in resource]
    return msgspec.Raw(f"{resource:f}".encode()) if isinstance(resource, Decimal) else resource


def test_digits_stay() -> None:
    """A sum has the digits of its amounts: 5.60 and 1.40 are 7.00."""
    claims = [claim(f"c{n}", "e", {"value": Decimal(text), "currency": "AED"}) for n, text in enumerate(("5.60", "1.40"))]
    sums = rendered(*[_with_numbers(each) for each in claims])["AED"]
    assert [str(sums[part]) for part in ("submitted", "pending", "paid")] == ["7.00", "7.00", "0"]


UNREADABLE = ["1e999999999", "-1e-999999999", '"NaN"', '"Infinity"', "1e999999", "null", '"x"', "[]", "{}"]


@pytest.mark.parametrize("text", UNREADABLE)
def test_unreadable_amounts(text: str) -> None:
    """An amount that is no amount of money counts for nothing, and costs nothing to render."""
    bad = {"value": msgspec.Raw(text.encode()), "currency": "AED"}
    good = claim("good", "e", {"value": 2, "currency": "AED"})
    explained = answer("ExplanationOfBenefit", "x", "Claim/good", total=[{**total("benefit", 0), "amount": bad}])
    for resources in ((claim("bad", "e", bad), good), (good, explained)):
        meta = money_meta((each["resourceType"], msgspec.json.encode(each)) for each in resources)
        assert len(meta) < 1000
        assert money_of(meta)["AED"]["submitted"] == 2
