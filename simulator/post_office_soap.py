"""SOAP 1.1 and 1.2 as the post office speaks them: requests read, answers written. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import get_args

from lxml import etree

import ingestion
from simulator.post_office_behaviour import Operation

NAMESPACE = "http://www.eClaimLink.ae/"
WSDL = Path(ingestion.__file__).parent / "post_office" / "validate_transactions.wsdl"
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
_ENVELOPES = {"1.1": "http://schemas.xmlsoap.org/soap/envelope/", "1.2": "http://www.w3.org/2003/05/soap-envelope"}
_TYPES = {"text/xml": "1.1", "application/soap+xml": "1.2"}
CONTENT_TYPES = {version: f"{type_}; charset=utf-8" for type_, version in _TYPES.items()}
_LOCATION = re.compile(rb'(:address\s+location=")[^"]*"')
_DECLARATION = b'<?xml version="1.0" encoding="utf-8"?>'


class SoapFault(Exception):
    """What is no request that the service knows; `version` says how the answer is written."""

    def __init__(self, message: str, version: str = "1.1", status: int = 500) -> None:
        super().__init__(message)
        self.version = version
        self.status = status


@dataclass(frozen=True, slots=True)
class Call:
    version: str
    operation: Operation
    arguments: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.arguments.get(name, "").strip()

    def number(self, name: str) -> int:
        """Raises SoapFault, as the service does for what is no int."""
        try:
            return int(self.arguments[name])
        except (KeyError, ValueError):
            raise SoapFault("Server was unable to read request. There is an error in the XML document.", self.version) from None


def wsdl(url: str) -> bytes:
    """Ours, with the address of this service."""
    return _LOCATION.sub(lambda match: match[1] + escape(url).encode() + b'"', WSDL.read_bytes())


def read(content_type: str, action: str | None, body: bytes) -> Call:
    """Raises SoapFault."""
    version = _TYPES.get(content_type)
    if version is None:
        raise SoapFault("The content type is neither of SOAP 1.1 nor of 1.2.", status=415)
    # A parser is made for each request: lxml's are not to be shared among threads, and cost microseconds.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=len(body) > 8_000_000)
    try:
        root = etree.fromstring(body, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise SoapFault("Server was unable to read request. There is an error in the XML document.", version) from None
    if root.getroottree().docinfo.doctype:
        raise SoapFault("A document type is not allowed.", version)
    if root.tag != f"{{{_ENVELOPES[version]}}}Envelope":
        raise SoapFault("Possible SOAP version mismatch: Envelope namespace was unexpected.", version)
    content = root.find(f"{{{_ENVELOPES[version]}}}Body/*")
    name = "" if content is None else content.tag
    operation = next((one for one in OPERATIONS if name == f"{{{NAMESPACE}}}{one}"), None)
    if content is None or operation is None or (version == "1.1" and (action or "").strip('"') != NAMESPACE + operation):
        raise SoapFault("Server did not recognize the value of HTTP Header SOAPAction.", version)
    prefix = f"{{{NAMESPACE}}}"
    return Call(
        version, operation, {one.tag.removeprefix(prefix): one.text or "" for one in content if isinstance(one.tag, str)}
    )


def _frame(version: str) -> tuple[bytes, bytes]:
    opening = f'<soap:Envelope xmlns:soap="{_ENVELOPES[version]}"><soap:Body>'.encode()
    return _DECLARATION + opening, b"</soap:Body></soap:Envelope>"


_FRAMES = {version: _frame(version) for version in _ENVELOPES}


def answer(call: Call, result: int, **parts: str | bytes | None) -> bytes:
    """`parts` in the WSDL's order: text is escaped, bytes are base64 already, None is absent."""
    opening, closing = _FRAMES[call.version]
    name = call.operation.encode()
    pieces = [opening, b'<%bResponse xmlns="%b"><%bResult>%d</%bResult>' % (name, NAMESPACE.encode(), name, result, name)]
    for part, value in parts.items():
        if value is not None:
            tag = part.encode()
            pieces += [
                b"<%b>" % tag,
                value if isinstance(value, bytes) else escape(value, quote=False).encode(),
                b"</%b>" % tag,
            ]
    return b"".join([*pieces, b"</%bResponse>" % name, closing])


def fault(error: SoapFault) -> bytes:
    opening, closing = _FRAMES[error.version]
    text = escape(str(error), quote=False)
    if error.version == "1.1":
        inner = f"<soap:Fault><faultcode>soap:Client</faultcode><faultstring>{text}</faultstring></soap:Fault>"
    else:
        inner = (
            "<soap:Fault><soap:Code><soap:Value>soap:Sender</soap:Value></soap:Code>"
            f'<soap:Reason><soap:Text xml:lang="en">{text}</soap:Text></soap:Reason></soap:Fault>'
        )
    return opening + inner.encode() + closing
