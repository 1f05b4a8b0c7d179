"""Claim elements put together as a file."""

from typing import NamedTuple

from simulator.claims_text import moment, to_datetime
from simulator.claims_types import GeneratedFile, Kind

_ROOT = {"submission": "Claim.Submission", "remittance": "Remittance.Advice"}
_LETTERS = {"submission": "CS", "remittance": "RA"}


class Body(NamedTuple):
    kind: Kind
    claims: list[str]
    activities: int
    amount_fils: int


def file_of(
    made: Body, between: tuple[str, str], at: int, file_id: str, number: str, *, is_test: bool = False
) -> GeneratedFile:
    """`between`: sender and receiver; `number` makes the name unique."""
    sender, receiver = between
    root = _ROOT[made.kind]
    document = (
        f'<?xml version="1.0" encoding="utf-8"?>\n<{root} xmlns:tns="http://www.eclaimlink.ae/DHD/ValidationSchema">\n'
        f"<Header><SenderID>{sender}</SenderID><ReceiverID>{receiver}</ReceiverID>"
        f"<TransactionDate>{moment(at)}</TransactionDate><RecordCount>{len(made.claims)}</RecordCount>"
        f"<DispositionFlag>{'TEST' if is_test else 'PRODUCTION'}</DispositionFlag></Header>\n{''.join(made.claims)}</{root}>\n"
    ).encode()
    return GeneratedFile(
        file_id=file_id,
        name=f"{sender}_{_LETTERS[made.kind]}_{number}.xml",
        kind=made.kind,
        sender_id=sender,
        receiver_id=receiver,
        at=to_datetime(at),
        records=len(made.claims),
        document=document,
        is_test=is_test,
        activities=made.activities,
        amount_fils=made.amount_fils,
    )
