"""OperationOutcome: how FHIR says that something went wrong. https://hl7.org/fhir/R4/operationoutcome.html."""

import orjson


def outcome(code: str, diagnostics: str, *, severity: str = "error", expression: str | None = None) -> bytes:
    """`code` is of http://hl7.org/fhir/issue-type; `expression` names the parameter or element at fault."""
    issue: dict[str, object] = {"severity": severity, "code": code, "diagnostics": diagnostics}
    if expression:
        issue["expression"] = [expression]
    return orjson.dumps({"resourceType": "OperationOutcome", "issue": [issue]})
