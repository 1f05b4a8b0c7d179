"""Small files of the DHA's schema, written out by hand."""

_HEADER = (
    "<Header><SenderID>{sender}</SenderID><ReceiverID>{receiver}</ReceiverID><TransactionDate>{at}</TransactionDate>"
    "<RecordCount>1</RecordCount><DispositionFlag>PRODUCTION</DispositionFlag></Header>"
)
_VISIT = (
    "<Encounter><FacilityID>{facility}</FacilityID><Type>1</Type><PatientID>{mrn}</PatientID><Start>01/05/2026 10:00</Start>"
    "<End>01/05/2026 11:00</End><StartType>1</StartType><EndType>1</EndType></Encounter>"
)


def submission(
    claim_id: str,
    *,
    net: str = "100.00",
    emirates_id: str = "784-1990-1234567-0",
    mrn: str | None = "m1",
    facility: str = "DHA-F-0000001",
    at: str = "02/05/2026 09:00",
    resubmission: str = "",
    activity: str = "a1",
) -> bytes:
    """A claim of one activity; `mrn` None: without an encounter. `resubmission`: its type."""
    visit = _VISIT.format(facility=facility, mrn=mrn) if mrn else ""
    again = f"<Resubmission><Type>{resubmission}</Type><Comment>again</Comment></Resubmission>" if resubmission else ""
    return (
        f"<Claim.Submission>{_HEADER.format(sender=facility, receiver='INS001', at=at)}<Claim><ID>{claim_id}</ID>"
        f"<MemberID>member</MemberID><PayerID>INS001</PayerID><ProviderID>{facility}</ProviderID>"
        f"<EmiratesIDNumber>{emirates_id}</EmiratesIDNumber><Gross>{net}</Gross><PatientShare>0</PatientShare><Net>{net}</Net>{visit}"
        f"<Diagnosis><Type>Principal</Type><Code>J06.9</Code></Diagnosis>"
        f"<Activity><ID>{activity}</ID><Start>01/05/2026 10:05</Start><Type>3</Type><Code>99213</Code><Quantity>1</Quantity>"
        f"<Net>{net}</Net><Clinician>DHA-P-0000001</Clinician></Activity>{again}</Claim></Claim.Submission>"
    ).encode()


def remittance(
    claim_id: str,
    *,
    payment: str = "100.00",
    net: str = "100.00",
    facility: str = "DHA-F-0000001",
    at: str = "12/05/2026 09:00",
    denial: str = "",
    activity: str = "a1",
) -> bytes:
    """The answer to a claim of one activity."""
    code = f"<DenialCode>{denial}</DenialCode>" if denial else ""
    return (
        f"<Remittance.Advice>{_HEADER.format(sender='INS001', receiver=facility, at=at)}<Claim><ID>{claim_id}</ID>"
        f"<IDPayer>P-{claim_id}</IDPayer><ProviderID>{facility}</ProviderID><PaymentReference>R1</PaymentReference>"
        f"<DateSettlement>{at}</DateSettlement><Activity><ID>{activity}</ID><Start>01/05/2026 10:05</Start><Type>3</Type>"
        f"<Code>99213</Code><Quantity>1</Quantity><Net>{net}</Net><Clinician>DHA-P-0000001</Clinician>"
        f"<PaymentAmount>{payment}</PaymentAmount>{code}</Activity></Claim></Remittance.Advice>"
    ).encode()
