"""What a file's remarks come to: bounded, whatever is in the file."""

from collections.abc import Iterable, Iterator

from ingestion.claims import Remark

KINDS_MAX = 100
WARNINGS_MAX = 200
ASIDE_MAX = 10_000


class Remarks:
    """What is odd of an element is said once a file, what is odd of a claim once a claim."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[str, int]] = {}
        """Of each reason the first claim, and how many claims there were."""
        self._warnings: list[Remark] = []
        self._asides: list[Remark] = []
        self._more_kinds = self._more_warnings = self._more_asides = 0

    def of_elements(self, reasons: Iterable[str], claim_id: str = "") -> None:
        for reason in set(reasons):
            first, times = self._kinds.get(reason, (claim_id, 0))
            if times or len(self._kinds) < KINDS_MAX:
                self._kinds[reason] = (first, times + 1)
            else:
                self._more_kinds += 1

    def of_claim(self, reason: str, claim_id: str = "") -> None:
        if len(self._warnings) < WARNINGS_MAX:
            self._warnings.append(Remark("warning", reason, claim_id))
        else:
            self._more_warnings += 1

    def aside(self, reason: str, claim_id: str) -> None:
        if len(self._asides) < ASIDE_MAX:
            self._asides.append(Remark("aside", reason, claim_id))
        else:
            self._more_asides += 1

    def all(self) -> tuple[Remark, ...]:
        return (*self._asides, *self._warnings, *self._said_once(), *self._left_out())

    def _said_once(self) -> Iterator[Remark]:
        for reason, (first, times) in self._kinds.items():
            yield Remark("warning", reason, first) if times == 1 else Remark("warning", f"{reason}, in {times} claims")

    def _left_out(self) -> Iterator[Remark]:
        if self._more_asides:
            yield Remark("aside", f"{self._more_asides} more claims are put aside")
        if self._more_warnings + self._more_kinds:
            yield Remark("warning", f"{self._more_warnings + self._more_kinds} more warnings")
