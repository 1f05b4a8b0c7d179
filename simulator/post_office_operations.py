"""The seven operations, each from a call to its answer. No I/O but the box."""

import base64
import io
import zipfile
from collections.abc import Callable, Mapping
from datetime import datetime

from lxml import etree

from simulator.claims_text import DUBAI
from simulator.claims_types import GeneratedFile, Kind
from simulator.post_office_behaviour import Operation
from simulator.post_office_box import Box
from simulator.post_office_content import content
from simulator.post_office_listing import Refused, document, new_files, search
from simulator.post_office_soap import Call, answer

_KINDS: dict[str, Kind] = {"Claim.Submission": "submission", "Remittance.Advice": "remittance"}
_UPLOAD_MAX = 20 * 1024 * 1024
Boxes = Mapping[str, Box]
"""By login."""


def get_new(_boxes: Boxes, box: Box, call: Call) -> bytes:
    found = new_files(box)
    if found or box.behaviour.empty == "files":
        return answer(call, 0, xmlTransaction=document(box, found))
    return answer(call, 2 if box.behaviour.empty == "code_2" else 0)


def search_for(_boxes: Boxes, box: Box, call: Call) -> bytes:
    found = search(box, call)
    if isinstance(found, Refused):
        return answer(call, found.code, errorMessage=found.message)
    return answer(call, 0, foundTransactions=document(box, found))


def download(_boxes: Boxes, box: Box, call: Call) -> bytes:
    file_id = call.text("fileId")
    if not file_id:
        return answer(call, -3, errorMessage="fileId is empty")
    file = box.find(file_id)
    if file is None:
        return answer(call, -6, errorMessage="the file was not found")
    file.downloads[file_id] += 1
    name, encoded = content(box, file)
    return answer(call, 0, fileName=name, file=encoded)


def acknowledge(_boxes: Boxes, box: Box, call: Call) -> bytes:
    file_id = call.text("fieldId")
    if not file_id:
        return answer(call, -3, errorMessage="fieldId is empty")
    file = box.find(file_id)
    if file is None:
        return answer(call, -6, errorMessage="the file was not found")
    if box.hits("ack_fail"):
        return answer(call, box.behaviour.ack_fail_code, errorMessage="an unexpected error")
    box.acknowledge(file, file_id)
    return answer(call, 0)


def no_prior_authorizations(_boxes: Boxes, _box: Box, call: Call) -> bytes:
    return answer(call, 2)


def upload(boxes: Boxes, box: Box, call: Call) -> bytes:
    """Into the sender's box, and the receiver's if there is one; a TEST file is looked at, and goes nowhere."""
    name = call.text("fileName")
    if not name or not call.text("fileContent"):
        return answer(call, -3, errorMessage="fileContent or fileName is empty")
    try:
        file = _uploaded(box, name, base64.b64decode(call.text("fileContent"), validate=True))
    except (ValueError, etree.XMLSyntaxError) as error:
        return answer(call, -2, errorMessage="the file is not valid", errorReport=_report(type(error).__name__))
    if file is None:
        return answer(call, -7, errorMessage="this transaction is not supported")
    if not file.is_test:
        stored = box.add(file)
        stored.is_taken = False
        for other in boxes.values():
            if other.profile.licence == file.receiver_id and other is not box:
                other.put(stored, is_sent=False)
    return answer(call, 0)


def _uploaded(box: Box, name: str, document: bytes) -> GeneratedFile | None:
    """Raises ValueError or XMLSyntaxError for what is no file of this sender; None: of a kind that is not taken."""
    if len(document) > _UPLOAD_MAX:
        raise ValueError("too large")
    root = etree.fromstring(document, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))
    kind = _KINDS.get(str(root.tag))
    if kind is None:
        return None
    said = {
        name: root.findtext(f"Header/{name}") or "" for name in ("SenderID", "ReceiverID", "TransactionDate", "DispositionFlag")
    }
    claims = len(root.findall("Claim"))
    if not claims or str(claims) != root.findtext("Header/RecordCount") or said["SenderID"] != box.profile.licence:
        raise ValueError("the header does not fit")
    return GeneratedFile(
        file_id=f"U{len(box.sent) + len(box.received) + 1:07}",
        name=name,
        kind=kind,
        sender_id=said["SenderID"],
        receiver_id=said["ReceiverID"],
        at=datetime.strptime(said["TransactionDate"], "%d/%m/%Y %H:%M").replace(tzinfo=DUBAI),
        records=claims,
        document=document,
        is_test=said["DispositionFlag"] == "TEST",
        activities=len(root.findall("Claim/Activity")),
        amount_fils=0,
    )


def _report(text: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("errors.csv", f"type\n{text}\n")
    return base64.b64encode(packed.getvalue())


OPERATIONS: dict[Operation, Callable[[Boxes, Box, Call], bytes]] = {
    "GetNewTransactions": get_new,
    "SearchTransactions": search_for,
    "DownloadTransactionFile": download,
    "SetTransactionDownloaded": acknowledge,
    "UploadTransaction": upload,
    "GetNewPriorAuthorizationTransactions": no_prior_authorizations,
    "CheckForNewPriorAuthorizationTransactions": no_prior_authorizations,
}
