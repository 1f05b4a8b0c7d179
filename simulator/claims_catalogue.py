"""Codes as they stand in claims. All are of public code lists or invented; shares follow what was seen of real traffic."""

PLACEHOLDERS = ("000-0000-0000000-0", "111-1111-1111111-1", "222-2222-2222222-2", "999-9999-9999999-9")

# Each with its weight.
ENCOUNTER_TYPES = {
    "1": 50, "2": 12, "3": 8, "4": 4, "5": 6, "6": 2, "7": 2, "8": 2, "9": 2, "10": 2, "12": 3, "13": 1, "15": 2, "41": 1,
    "42": 1,
}  # fmt: skip
START_TYPES = {"1": 70, "2": 15, "3": 4, "4": 3, "5": 1, "6": 1, "7": 6}
END_TYPES = {"1": 80, "2": 3, "3": 2, "4": 4, "5": 2, "6": 4, "7": 3, "8": 2}
STAYS = frozenset("3456")
"""Encounter types that last longer than a visit."""

ACTIVITY_COUNTS = {1: 30, 2: 22, 3: 16, 4: 12, 5: 8, 6: 5, 7: 2, 8: 2, 10: 1, 11: 1, 13: 1}
"""Activities of a claim: 3 on average."""
DIAGNOSIS_COUNTS = {1: 50, 2: 25, 3: 12, 4: 6, 5: 3, 6: 2, 8: 1, 11: 1}
"""Diagnoses of a claim: 2 on average."""

ACTIVITY_CODES = {
    "3": ("99213", "99214", "85025", "86141", "80053", "71046", "93000", "36415", "97110", "87086"),
    "4": ("A4550", "J1885", "J7050", "A6402", "G0463"),
    "5": ("B46-4387-00778-01", "F35-3044-00912-02", "H12-0021-04411-01", "C08-9912-00034-03"),
    "6": ("D0120", "D0220", "D1110", "D2391", "D7140"),
    "8": ("9", "10", "17-01", "25-02", "62"),
    "9": ("014171", "063073", "101102"),
    "10": ("S-101", "S-227"),
}
ACTIVITY_TYPES = {"3": 52, "8": 20, "5": 18, "6": 4, "4": 3, "9": 2, "10": 1}

DIAGNOSES = (
    "J06.9", "E11.9", "I10", "M54.5", "K21.9", "J45.909", "N39.0", "R51.9", "E03.9", "H52.13", "L20.9", "K02.9", "Z00.00",
    "E78.5", "J20.9", "R10.9", "M25.561", "D64.9", "B34.9", "S93.401A", "G43.909", "E55.9", "K29.70", "Z01.818", "F41.1",
    "O80", "I25.10", "N18.3",
)  # fmt: skip

DENIALS = {
    "MNEC-003": 60, "MNEC-005": 5, "AUTH-001": 6, "AUTH-003": 2, "AUTH-005": 1, "BENX-005": 2, "CLAI-012": 4, "CODE-010":
    3, "CODE-013": 1, "CODE-014": 2, "COPY-001": 1, "DUPL-001": 2, "DUPL-002": 1, "ELIG-001": 2, "ELIG-005": 1,
    "ELIG-006": 1, "ELIG-007": 1, "NCOV-001": 3, "NCOV-003": 4, "PRCE-001": 2, "PRCE-002": 4, "PRCE-010": 3, "PRCE-011":
    1, "TIME-001": 2, "WRNG-001": 1, "XLOC-999": 1,
}  # fmt: skip
"""The last one is on no list: unknown codes are stored, too."""
RECOVERY = "PRCE-003"

# Type, Code, Value, ValueType.
OBSERVATIONS = (
    ("LOINC", "8480-6", "128", "mmHg"),
    ("LOINC", "4548-4", "6.9", "%"),
    ("LOINC", "29463-7", "71.5", "kg"),
    ("LOINC", "8310-5", "37.2", "Cel"),
    ("Text", "Presenting-Complaint", "سعال منذ ثلاثة أيام", "Text"),
    ("Text", "Remark", "seen at A&amp;E &lt; 2 h", None),
    ("File", "PDF", None, None),
    ("Universal Dental", "14", None, None),
    ("Financial", "VAT", "0.00", "AED"),
    ("Grouping", "PackageID", "PKG-7", None),
    ("ERX", "ERX-Reference", "40012345", "Reference"),
    ("Result", "Result-Date", "05/01/2026 08:30", "DateTime"),
)
RESUBMISSIONS = {"correction": 50, "internal complaint": 30, "legacy": 8, "reconciliation": 12}
COMMENTS = (
    "Medical report attached; kindly reconsider.",
    "Code corrected as advised &amp; resubmitted",
    "Approval was obtained before the service.",
    "يرجى إعادة النظر في المطالبة",
    "Reconciled with the payer's statement",
)
PACKAGES = ("Gold", "Silver Network", "Family &amp; Friends", "Essential")
PLACES = ("DHA-F-9000001", "City ambulance", "Rehabilitation &amp; care home")
