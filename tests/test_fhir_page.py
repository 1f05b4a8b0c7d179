"""docs/fhir.md: current, and true: its examples and refusals are asked of a running server."""

from pathlib import Path

import pytest

from docs import build
from docs.rules import ABSENT, EXAMPLES, REFUSED, RULES, Example, Refusal
from r4.parameters import PARAMETERS
from storage.embedded import Cluster
from tests.reading import reading
from tests.specimens import specimens
from tests.support import Home, add_tenant, build_home, bundle_of, diagnosed

IDS = {"patient": "full", "encounter": "full"}


async def _fill(home: Home) -> None:
    home.keys["one"] = await add_tenant(home.database, "one", specimens())


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "fhir_page", _fill)


def test_current() -> None:
    """The committed pages are what the tables make."""
    assert build.outdated(build.FOLDER) == []


def test_check(tmp_path: Path) -> None:
    """`--check` ends with 1 where a page is missing or differs, writes nothing, and is content with what was written."""
    build.main([], tmp_path)
    file = tmp_path / "fhir.md"
    file.unlink()
    for text in (None, "something else"):
        if text is not None:
            file.write_text(text)
        with pytest.raises(SystemExit, match=r"python -m docs\.build"):
            build.main(["--check"], tmp_path)
        assert (file.read_text() if file.exists() else None) == text
    build.main([], tmp_path)
    build.main(["--check"], tmp_path)


def test_rules() -> None:
    """All 27 rules are there, in their order; the tests that prove them exist, and what is said to be absent is."""
    assert [rule.number for rule in RULES] == list(range(1, 28))
    tests = Path(__file__).parent
    missing = {name for rule in RULES for name in rule.tests if not (tests / f"test_{name}.py").is_file()}
    assert not missing
    assert all(rule.tests and rule.how for rule in RULES)
    assert not {(kind, name) for kind, names in ABSENT.items() for name in names if name in PARAMETERS[kind]}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.path)
async def test_examples(home: Home, example: Example) -> None:
    """Each example does what is said of it; those that search find something."""
    name, _, value = example.header.partition(": ")
    headers = {name.replace("-", "_"): value} if name else {}
    if example.form:
        headers["Content_Type"] = "application/x-www-form-urlencoded"
    body = example.form.format(**IDS).encode() or None
    async with reading(home, "direct") as ask:
        url = f"/fhir/{example.path.format(**IDS)}"
        reply = await ask.once(url, "one" if example.key else None, "POST" if body else "GET", body=body, **headers)
        if name == "If-None-Match":
            assert (reply.status, reply.body) == (304, b"")
        elif name == "Prefer":
            diagnosed(reply, 400, "invalid")
            assert bundle_of(await ask.once(url))["link"][0]["url"].endswith("/Patient?_count=20")
        else:
            assert reply.status == 200, reply.body
            if reply.json["resourceType"] == "Bundle":
                assert bundle_of(reply).get("entry") or reply.json["total"]


@pytest.mark.parametrize("refusal", REFUSED, ids=lambda refusal: refusal.path)
async def test_refusals(home: Home, refusal: Refusal) -> None:
    """What is said to be refused is refused, as it is said."""
    url = f"/fhir/{refusal.path.format(**IDS)}".replace("/?", "?")
    async with reading(home, "direct") as ask:
        if refusal.lenient:
            assert bundle_of(await ask.once(url))["link"][0]["url"].endswith("?_count=20")
        reply = await ask.once(url, method=refusal.method, Prefer="handling=strict")
        diagnosed(reply, refusal.status, refusal.code)
