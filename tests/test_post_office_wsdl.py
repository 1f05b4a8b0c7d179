"""Our WSDL and our client beside the post office's own WSDL."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast
from xml.etree.ElementTree import canonicalize

import pytest
from lxml import etree
from zeep import Client
from zeep.wsdl.bindings.soap import SoapBinding

from ingestion.post_office.soap import PORTS, WSDL
from tests.odd_post_office import ENVELOPES, LOGIN, PASSWORD, answer, asking
from tests.test_post_office import NOW

Version = Literal["1.1", "1.2"]
XS = "{http://www.w3.org/2001/XMLSchema}"
SEARCH = {"direction": 1, "kind": 2, "start": NOW, "end": NOW, "status": 2}
SEARCHED: dict[str, Any] = {
    "direction": 1,
    "callerLicense": "DHA-F-0000001",
    "ePartner": "",
    "transactionID": 2,
    "TransactionStatus": 2,
    "transactionFileName": "",
    "transactionFromDate": "11/04/2026 16:00:00",
    "transactionToDate": "11/04/2026 16:00:00",
    "minRecordCount": -1,
    "maxRecordCount": -1,
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "GetNewTransactions": {},
    "SearchTransactions": SEARCHED,
    "DownloadTransactionFile": {"fileId": "{id} <1>"},
    "SetTransactionDownloaded": {"fieldId": "{id} <1>"},
}


@pytest.fixture(scope="module")
def real_wsdl(shared_data: Path) -> Path:
    return shared_data / "post-office/wsdl/instahms_dhaEClaimWebServices.wsdl"


def binding_of(wsdl: Path, version: Version) -> SoapBinding:
    return cast("SoapBinding", Client(str(wsdl)).wsdl.bindings[PORTS[version]])


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_our_wsdl_says_what_theirs_says(real_wsdl: Path, version: Version) -> None:
    """Every operation has the same elements in and out, in the same order, of the same types, and the same action."""
    ours, theirs = binding_of(WSDL, version).all(), binding_of(real_wsdl, version).all()

    def described(operations: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        return {
            name: (found.input.body.signature(), found.output.body.signature(), found.soapaction, found.style)
            for name, found in operations.items()
        }

    assert described(ours) == described(theirs)
    assert len(ours) == 7


async def sent(version: Version) -> dict[str, tuple[bytes, dict[str, str]]]:
    """What the client sends, by operation: the body and the headers."""
    answers = [answer(name, 0, version, **({"file": "AA=="} if name.startswith("Download") else {})) for name in ARGUMENTS]
    async with asking(*answers, soap=version) as (mailbox, asked):
        await mailbox.new()
        await mailbox.search(**SEARCH)  # type: ignore[arg-type]
        await mailbox.download("{id} <1>")
        await mailbox.acknowledge("{id} <1>")
    return dict(zip(ARGUMENTS, zip(asked.bodies, asked.headers, strict=True), strict=True))


@pytest.mark.parametrize("version", ["1.1", "1.2"])
async def test_our_requests_are_theirs(real_wsdl: Path, version: Version) -> None:
    """Each request is, canonically, what a client made of the real WSDL sends, and valid by the real schema."""
    theirs = Client(str(real_wsdl))
    service = theirs.create_service(PORTS[version], "http://127.0.0.1")
    for operation, (body, headers) in (await sent(version)).items():
        expected = theirs.create_message(service, operation, login=LOGIN, pwd=PASSWORD, **ARGUMENTS[operation])
        assert canonical(body) == canonical(etree.tostring(expected))
        schema_of(real_wsdl).assertValid(content_of(body, version))
        action = f'"http://www.eClaimLink.ae/{operation}"'
        assert action == headers["SOAPAction"] if version == "1.1" else f"action={action}" in headers["Content-Type"]


async def test_a_wrong_request_would_be_seen(real_wsdl: Path) -> None:
    """The schema refuses a request in which a name is not the service's own: what it takes says something."""
    body, _ = (await sent("1.1"))["SetTransactionDownloaded"]
    assert schema_of(real_wsdl).validate(content_of(body, "1.1"))
    assert not schema_of(real_wsdl).validate(content_of(body.replace(b"fieldId", b"fileId"), "1.1"))


def schema_of(wsdl: Path) -> etree.XMLSchema:
    found = etree.parse(str(wsdl)).find(f".//{XS}schema")
    assert found is not None
    return etree.XMLSchema(found)


def content_of(body: bytes, version: Version) -> etree._Element:
    found = etree.fromstring(body).find(f"{{{ENVELOPES[version]}}}Body")
    assert found is not None
    return found[0]


def canonical(document: bytes) -> str:
    return canonicalize(document.decode(), rewrite_prefixes=True, strip_text=False)
