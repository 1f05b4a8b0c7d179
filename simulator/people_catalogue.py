"""The plain data that the generated people are made of, and the identifier systems of the house. Nothing in it is real."""

from datetime import datetime
from random import Random
from typing import Any, NamedTuple

BASE = "https://fhir.example.ae"
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
ICD_10 = "http://hl7.org/fhir/sid/icd-10-cm"
CPT = "http://www.ama-assn.org/go/cpt"

Json = dict[str, Any]


def concept(system: str, code: str, display: str | None = None) -> Json:
    """A CodeableConcept of one coding."""
    coding = {"system": system, "code": code}
    return {"coding": [coding | {"display": display}], "text": display} if display else {"coding": [coding]}


def identifier(system: str, value: str, type_code: str | None = None) -> Json:
    """`system` is below the house's own base; `type_code` is of HL7's table 0203."""
    plain = {"system": f"{BASE}/sid/{system}", "value": value}
    return {"type": concept(f"{TERMINOLOGY}/v2-0203", type_code), **plain} if type_code else plain


def reference(kind: str, id_: str, display: str | None = None) -> Json:
    target = {"reference": f"{kind}/{id_}"}
    return target | {"display": display} if display else target


def moment(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def draw(random: Random, shares: dict[str, float]) -> str:
    """A key, as often as its share says."""
    return random.choices(list(shares), list(shares.values()))[0]


class Case(NamedTuple):
    """A reason to come and what is then done: (CPT code, what it is, price in fils)."""

    code: str
    display: str
    min_age: int
    services: tuple[tuple[str, str, int], ...]


VISIT = ("99213", "Consultation", 25_000)
LONG_VISIT = ("99214", "Extended consultation", 38_050)
BLOOD_COUNT = ("85025", "Complete blood count", 6_480)
METABOLIC = ("80053", "Metabolic panel", 11_225)
X_RAY = ("71046", "Chest X-ray, two views", 18_500)
ECG = ("93000", "Electrocardiogram", 14_000)
EMERGENCY = ("99284", "Emergency visit", 62_000)
WARD_DAY = ("99232", "Inpatient day", 145_000)
HOME_VISIT = ("99349", "Home visit", 41_000)

CASES: dict[str, tuple[Case, ...]] = {
    "AMB": (
        Case("J06.9", "Acute upper respiratory infection", 0, (VISIT, BLOOD_COUNT)),
        Case("E11.9", "Type 2 diabetes mellitus", 30, (LONG_VISIT, ("83036", "Glycated haemoglobin", 9_300), METABOLIC)),
        Case("I10", "Essential hypertension", 35, (VISIT, ECG, METABOLIC)),
        Case("M54.50", "Low back pain", 18, (VISIT, ("97110", "Therapeutic exercise", 16_075))),
        Case("E55.9", "Vitamin D deficiency", 5, (VISIT, ("82306", "Vitamin D, 25-hydroxy", 21_000))),
        Case("J45.909", "Asthma", 4, (LONG_VISIT, ("94060", "Spirometry", 26_500))),
        Case("L20.9", "Atopic dermatitis", 0, (VISIT,)),
    ),
    "EMER": (
        Case("R07.9", "Chest pain", 30, (EMERGENCY, ECG, ("84484", "Troponin", 17_250), X_RAY)),
        Case("A09", "Gastroenteritis", 0, (EMERGENCY, METABOLIC, ("96360", "Intravenous hydration", 23_500))),
        Case("S93.401A", "Sprained ankle", 6, (EMERGENCY, ("73610", "X-ray of the ankle", 15_900))),
        Case("N20.0", "Kidney stone", 20, (EMERGENCY, ("74176", "Abdominal CT", 98_000), METABOLIC)),
    ),
    "IMP": (
        Case("J18.9", "Pneumonia", 0, (WARD_DAY, X_RAY, BLOOD_COUNT, METABOLIC, ("87040", "Blood culture", 13_340))),
        Case("K35.80", "Acute appendicitis", 5, (WARD_DAY, ("44970", "Laparoscopic appendectomy", 890_000), BLOOD_COUNT)),
        Case("I21.4", "Myocardial infarction", 40, (WARD_DAY, ECG, ("92928", "Coronary stent", 2_350_000), METABOLIC)),
    ),
    "SS": (
        Case("H25.9", "Senile cataract", 55, (("66984", "Cataract surgery", 612_500), VISIT)),
        Case("K40.90", "Inguinal hernia", 0, (("49505", "Hernia repair", 478_000), BLOOD_COUNT)),
        Case("K63.5", "Polyp of colon", 30, (("45385", "Colonoscopy with removal", 331_000),)),
    ),
    "HH": (
        Case("Z48.00", "Change of dressing", 0, (HOME_VISIT, ("97597", "Wound care", 19_900))),
        Case("I69.354", "Weakness after stroke", 50, (HOME_VISIT, ("97110", "Therapeutic exercise", 16_075))),
    ),
}
"""By class of the encounter; each has one that fits every age."""

CLASSES: dict[str, tuple[str, str, float, float]] = {
    "AMB": ("ambulatory", "1", 0.3, 1.5),
    "EMER": ("emergency", "2", 1.0, 9.0),
    "IMP": ("inpatient encounter", "3", 26.0, 220.0),
    "SS": ("short stay", "5", 4.0, 12.0),
    "HH": ("home health", "12", 0.5, 2.0),
}
"""Class to its display, the eClaimLink type of encounter, and the shortest and longest stay in hours."""

DENIALS = ("MNEC-003", "AUTH-001", "NCOV-003", "CLAI-012", "PRCE-002")

HOSPITALS = ("Palm Creek Demo Hospital", "Desert Rose Demo Hospital", "Pearl Bay Demo Hospital")
ROOMS = (("Outpatient clinic", "HOSP"), ("Emergency room", "ER"), ("Ward A", "HU"), ("Day surgery", "SU"))
ROOM_OF = {"AMB": 0, "EMER": 1, "IMP": 2, "SS": 3}
PAYERS = ("Falcon Demo Insurance", "Oryx Demo Insurance", "Lighthouse Demo Health Cover")
CITIES = (("Dubai", "DU"), ("Abu Dhabi", "AZ"), ("Sharjah", "SH"), ("Ajman", "AJ"))
SPECIALTIES = ("Family medicine", "Emergency medicine", "Cardiology", "General surgery", "Paediatrics", "Orthopaedics")

GULF_GIVEN: dict[str, tuple[tuple[str, str], ...]] = {
    "male": (
        ("Ahmed", "أحمد"), ("Khalid", "خالد"), ("Omar", "عمر"), ("Saeed", "سعيد"), ("Hamad", "حمد"), ("Yousef", "يوسف"),
        ("Rashid", "راشد"), ("Tariq", "طارق"), ("Faisal", "فيصل"), ("Ibrahim", "إبراهيم"), ("Majid", "ماجد"), ("Salem", "سالم"),
    ),
    "female": (
        ("Fatima", "فاطمة"), ("Mariam", "مريم"), ("Aisha", "عائشة"), ("Noora", "نورة"), ("Hessa", "حصة"), ("Latifa", "لطيفة"),
        ("Salama", "سلامة"), ("Amna", "آمنة"), ("Shamma", "شمة"), ("Layla", "ليلى"), ("Huda", "هدى"), ("Reem", "ريم"),
    ),
}  # fmt: skip
GULF_FAMILY = (
    ("Al Qamari", "القمري"), ("Al Nakhli", "النخلي"), ("Al Sahili", "الساحلي"), ("Al Wahati", "الواحاتي"),
    ("Al Rimali", "الرمالي"), ("Al Luluwi", "اللؤلؤي"), ("Al Jabali", "الجبلي"), ("Al Bahri", "البحري"),
    ("Al Najmi", "النجمي"), ("Al Sidri", "السدري"),
)  # fmt: skip
"""Latin and Arabic; Faker has no Gulf names in Latin script, and these family names are made from plain nouns."""
