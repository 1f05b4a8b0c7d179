"""What the claim generator is asked for, and what it makes."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["submission", "remittance"]

INSURERS = ("INS001", "INS002", "INS005", "INS012", "TPA001", "TPA004")
"""Who receives submissions and sends remittances; a TPA does so for several insurers."""


@dataclass(frozen=True, slots=True)
class FacilityProfile:
    licence: str
    login: str
    password: str


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of claims, unless said otherwise."""

    remitted: float = 0.61
    """Answered once at least."""
    early: float = 0.01
    """Remitted before their submission."""
    orphaned: float = 0.01
    """Remitted, and never submitted."""
    resubmitted: float = 0.40
    """Of those that were not paid in full."""
    reanswered: float = 0.70
    """Of the resubmitted ones."""
    resent: float = 0.10
    """Resubmitted without an answer, of those not answered."""
    rest_paid: float = 0.15
    """The rest follows in another remittance, of those not paid in full and not resubmitted."""
    taken_back: float = 0.05
    """Of those paid something."""
    repeated: float = 0.003
    """Said again without Resubmission, with other amounts."""
    self_paid: float = 0.03
    no_encounter: float = 0.03
    placeholder: float = 0.10
    """Of patients: an Emirates ID that says nothing of who it is."""
    common: float = 0.05
    """Of patients: known to other facilities, too."""
    no_provider: float = 0.04
    """Of remitted claims."""
    differing_net: float = 0.003
    """The claim's Net is not the sum of its activities'."""
    no_gross: float = 0.17
    """Of remitted lines."""
    observations: float = 0.30
    """A claim, on average."""
    test_every: int = 20
    """One in so many files is preceded by a TEST file; 0: none."""
    size_varies: bool = True
    """The claims in a submission file lie around `claims_per_file`, half as many to half as many more."""


MIX = Mix()
"""All that real traffic brings: 0.8 remittances a claim."""

PLAIN = replace(
    MIX,
    remitted=0.8,
    early=0,
    orphaned=0,
    resubmitted=0,
    resent=0,
    rest_paid=0,
    taken_back=0,
    repeated=0,
    self_paid=0,
    no_encounter=0,
    no_provider=0,
    differing_net=0,
    test_every=0,
    size_varies=False,
)
"""Claims and their one answer, paid or denied, 0.8 a claim: what a benchmark can count on."""


@dataclass(frozen=True, slots=True)
class GeneratedFile:
    file_id: str
    name: str
    kind: Kind
    sender_id: str
    receiver_id: str
    at: datetime
    """The header's TransactionDate; Asia/Dubai."""
    records: int
    document: bytes
    """UTF-8."""
    is_test: bool
    activities: int
    amount_fils: int
    """Submitted net, or paid."""
