"""What a subset of a resource has to know of its type: which elements are mandatory, and which are in its summary.

The facts are those of R4 4.0.1's own definitions (https://hl7.org/fhir/R4/resourcelist.html), top-level elements only; a test
compares them with fhir.resources.
"""

from dataclasses import dataclass

# A type, and those of its elements that matter, in the order of its definition: with `!` it is mandatory (min is 1 or more),
# bare it is in the summary (isSummary), with `~` it is neither, and here because it is a choice of types; `[x]` says so.
_TABLE = """
Account: identifier status! type name subject servicePeriod coverage owner description
AllergyIntolerance: identifier clinicalStatus verificationStatus type category criticality code patient! ~onset[x]
    asserter
Appointment: identifier status! cancelationReason serviceCategory serviceType specialty appointmentType reasonCode start
    end participant!
CapabilityStatement: url version name title status! experimental date! publisher contact useContext jurisdiction kind!
    instantiates imports software implementation fhirVersion! format! patchFormat implementationGuide rest messaging
    document
CarePlan: identifier instantiatesCanonical instantiatesUri basedOn replaces partOf status! intent! category title
    description subject! encounter period created author addresses
CareTeam: identifier status category name subject encounter period managingOrganization
ChargeItem: identifier status! code! subject! context occurrence[x] quantity bodysite enterer enteredDate ~product[x]
    account
Claim: status! type! use! patient! billablePeriod created! insurer provider! priority! insurance!
ClaimResponse: status! type! use! patient! created! insurer! request outcome! total
ClinicalImpression: identifier status! code description subject! encounter effective[x] date assessor problem
Communication: identifier instantiatesCanonical instantiatesUri basedOn partOf status! statusReason priority subject
    encounter reasonCode reasonReference
Composition: identifier status! type! category subject encounter date! author! title! confidentiality custodian event
Condition: identifier clinicalStatus verificationStatus code bodySite subject! encounter onset[x] ~abatement[x]
    recordedDate recorder asserter
Consent: identifier status! scope! category! patient dateTime performer organization source[x] policyRule verification
    provision
Coverage: identifier status! type policyHolder subscriber subscriberId beneficiary! dependent period payor! order
    network
CoverageEligibilityRequest: status! purpose! patient! ~serviced[x] created! insurer!
CoverageEligibilityResponse: status! purpose! patient! ~serviced[x] created! request! outcome! insurer!
Device: udiCarrier status safety
DeviceRequest: identifier instantiatesCanonical instantiatesUri basedOn priorRequest groupIdentifier status intent!
    priority code[x]! subject! encounter occurrence[x] authoredOn requester performerType performer reasonCode
    reasonReference
DiagnosticReport: identifier status! category code! subject encounter effective[x] issued performer resultsInterpreter
    media
DocumentReference: masterIdentifier identifier status! docStatus type category subject date author relatesTo description
    securityLabel content! context
Encounter: identifier status! class! type serviceType subject episodeOfCare participant appointment reasonCode
    reasonReference diagnosis
Endpoint: identifier status! connectionType! name managingOrganization period payloadType! payloadMimeType address!
EpisodeOfCare: status! type diagnosis patient! managingOrganization period
ExplanationOfBenefit: status! type! use! patient! billablePeriod created! insurer! provider! outcome! insurance! total
FamilyMemberHistory: identifier instantiatesCanonical instantiatesUri status! dataAbsentReason patient! date name
    relationship! sex ~born[x] age[x] estimatedAge deceased[x] reasonCode reasonReference
Flag: identifier status! category code! subject! period encounter author
Goal: lifecycleStatus! achievementStatus category priority description! subject! start[x] statusDate expressedBy
Group: identifier active type! actual! code name quantity managingEntity
HealthcareService: identifier active providedBy category type specialty location name comment photo
ImagingStudy: identifier status! modality subject! encounter started basedOn referrer interpreter endpoint
    numberOfSeries numberOfInstances procedureReference procedureCode location reasonCode reasonReference note
    description series
Immunization: status! vaccineCode! patient! occurrence[x]! primarySource performer note isSubpotent
List: status! mode! title code subject date source
Location: identifier status operationalStatus name description mode type physicalType managingOrganization
Media: identifier basedOn partOf status! type modality view subject encounter created[x] issued operator reasonCode
    bodySite deviceName device height width frames duration content!
Medication: identifier code status manufacturer amount
MedicationAdministration: instantiates partOf status! medication[x]! subject! effective[x]! performer
MedicationDispense: status! ~statusReason[x] medication[x]! subject whenPrepared
MedicationRequest: status! intent! priority doNotPerform reported[x] medication[x]! subject! authoredOn requester
    performerType instantiatesCanonical instantiatesUri basedOn groupIdentifier
MedicationStatement: identifier basedOn partOf status! category medication[x]! subject! context effective[x]
    dateAsserted
NutritionOrder: instantiatesCanonical instantiatesUri status! intent! patient! dateTime! orderer
Observation: identifier basedOn partOf status! code! subject focus encounter effective[x] issued performer value[x]
    hasMember derivedFrom component
Organization: identifier active type name partOf
Patient: identifier active name telecom gender birthDate deceased[x] address ~multipleBirth[x] managingOrganization link
Person: name telecom gender birthDate managingOrganization active
Practitioner: identifier active name telecom address gender birthDate
PractitionerRole: identifier active period practitioner organization code specialty location telecom
Procedure: identifier instantiatesCanonical instantiatesUri basedOn partOf status! statusReason category code subject!
    encounter performed[x] recorder asserter performer location reasonCode reasonReference bodySite outcome
Provenance: target! ~occurred[x] recorded! agent!
Questionnaire: url identifier version name title status! experimental subjectType date publisher contact useContext
    jurisdiction effectivePeriod code
QuestionnaireResponse: identifier basedOn partOf questionnaire status! subject encounter authored author source
RelatedPerson: identifier active patient! relationship name telecom gender birthDate address
RiskAssessment: identifier status! method code subject! encounter occurrence[x] condition performer
Schedule: identifier active serviceCategory serviceType specialty actor! planningHorizon
ServiceRequest: identifier instantiatesCanonical instantiatesUri basedOn replaces requisition status! intent! category
    priority doNotPerform code orderDetail quantity[x] subject! encounter occurrence[x] asNeeded[x] authoredOn requester
    performerType performer locationCode locationReference reasonCode reasonReference specimen bodySite
    patientInstruction
Slot: identifier serviceCategory serviceType specialty appointmentType schedule! status! start! end!
Specimen: identifier accessionIdentifier status type subject receivedTime condition
Task: instantiatesCanonical instantiatesUri basedOn groupIdentifier partOf status! statusReason businessStatus intent!
    code description focus for encounter executionPeriod lastModified requester owner location
"""


@dataclass(frozen=True, slots=True)
class Elements:
    """Names without the `[x]`: those in `choices` stand in a resource with their value's type behind them.

    `summary` has the mandatory ones too, for a resource without them is none.
    """

    mandatory: frozenset[str]
    summary: frozenset[str]
    choices: frozenset[str]


def _elements(words: list[str]) -> Elements:
    names = {word: word.strip("!~").removesuffix("[x]") for word in words}
    return Elements(
        frozenset(names[word] for word in words if word.endswith("!")),
        frozenset(names[word] for word in words if not word.startswith("~")),
        frozenset(names[word] for word in words if "[x]" in word),
    )


def _rows() -> dict[str, Elements]:
    rows = _TABLE.replace("\n    ", " ").strip().splitlines()
    return {kind: _elements(words.split()) for kind, _, words in (row.partition(":") for row in rows)}


ELEMENTS: dict[str, Elements] = _rows()
"""By type. Of a type that is not here no one knows what may be left out."""
