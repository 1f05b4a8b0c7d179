"""/fhir/metadata as an answer of HTTP: open, valid, conditional, in its forms, and with what is configured of security."""

import asyncio
import re

import pytest

from handlers.metadata import PATH
from storage.embedded import Cluster
from tests.issuer import DISCOVERY, issuing
from tests.support import JSON, Asker, Home, add_tenant, asking, build_home, diagnosed, served


async def _fill(home: Home) -> None:
    home.keys["one"] = await add_tenant(home.database, "one")


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "metadata", _fill)


async def test_without_a_key(home: Home) -> None:
    """Whoever asks gets one valid statement of R4 4.0.1, by GET and by HEAD, with a validator that gives 304."""
    from fhir.resources.R4B import get_fhir_model_class

    async with asking(home, "direct") as ask:
        reply = await ask.once(PATH, None)
        assert (reply.status, reply.headers["Content-Type"]) == (200, JSON)
        get_fhir_model_class("CapabilityStatement").model_validate(reply.json)
        assert reply.json["fhirVersion"] == "4.0.1"
        assert (reply.json["kind"], reply.json["status"]) == ("instance", "active")
        assert reply.json["implementation"]["url"] == f"{ask.server.url}/fhir"
        assert reply.json["software"]["version"] == reply.json["version"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", reply.json["date"])
        assert len(reply.body) < 150_000
        assert (await ask.once(PATH)).body == (await ask.once(PATH, None, Authorization="Bearer wrong")).body == reply.body
        head = await ask.once(PATH, None, "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["ETag"] == reply.headers["ETag"]
        unchanged = await ask.once(PATH, None, If_None_Match=reply.headers["ETag"])
        assert (unchanged.status, unchanged.body) == (304, b"")
        posted = await ask.once(PATH, None, "POST")
        diagnosed(posted, 405, "not-supported")
        assert posted.headers["Allow"] == "GET,HEAD"


async def test_forms(home: Home) -> None:
    """Modes, formats and subsets: what is understood is done, what is not is refused with an outcome."""
    async with asking(home, "direct") as ask:
        whole = (await ask.once(PATH, None)).body
        for query in ("mode=full", "mode=normative", "mode=", "_format=json", "_format=application/fhir+json", "x=y"):
            assert (await ask.once(f"{PATH}?{query}", None)).body == whole, query
        diagnosed(await ask.once(f"{PATH}?mode=terminology", None), 404, "not-supported")
        diagnosed(await ask.once(f"{PATH}?mode=other", None), 400, "invalid")
        diagnosed(await ask.once(f"{PATH}?_format=xml", None), 406, "not-supported")
        diagnosed(await ask.once(PATH, None, Accept="application/fhir+xml"), 406, "not-supported")
        assert (await ask.once(f"{PATH}?_pretty=true", None)).body.startswith(b"{\n")
        summary = await ask.once(f"{PATH}?_summary=true", None)
        assert "description" not in summary.json
        assert summary.json["rest"] == (await ask.once(PATH, None)).json["rest"]
        assert summary.headers["ETag"] != (await ask.once(PATH, None)).headers["ETag"]
        elements = (await ask.once(f"{PATH}?_elements=software", None)).json
        assert set(elements) == {"resourceType", "meta", "software", "status", "date", "kind", "fhirVersion", "format"}
        diagnosed(await ask.once(f"{PATH}?_summary=count", None), 400, "invalid")


async def test_security(home: Home) -> None:
    """CORS and SMART are named where they are configured; an app finds its issuer, and waits little for one that is away."""
    async with asking(home, "direct") as ask:
        security = (await ask.once(PATH, None)).json["rest"][0]["security"]
        assert (security["cors"], set(security)) == (False, {"cors", "description"})
    async with issuing() as issuer:
        issuer.document = {"authorization_endpoint": "https://a.example/auth", "token_endpoint": "https://a.example/token"}
        async with served(home.database, jwt_issuers=(issuer.url,), cors_origins=("*",)) as server:
            security = (await Asker(server, "direct").once(PATH, None)).json["rest"][0]["security"]
            assert security["cors"] is True
            assert security["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"
            uris = {row["url"]: row["valueUri"] for row in security["extension"][0]["extension"]}
            assert uris == {"authorize": "https://a.example/auth", "token": "https://a.example/token"}
            assert issuer.asked[DISCOVERY] == 1
        issuer.speaks.clear()
        async with served(home.database, jwt_issuers=(issuer.url,)) as server, asyncio.timeout(2):
            assert "extension" not in (await Asker(server, "direct").once(PATH, None)).json["rest"][0]["security"]
        issuer.speaks.set()
        issuer.leaves()
        async with served(home.database, jwt_issuers=(issuer.url,)) as server:
            security = (await Asker(server, "direct").once(PATH, None)).json["rest"][0]["security"]
            assert set(security) == {"cors", "service", "description"}
