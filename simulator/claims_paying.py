"""What a payer says of a claim: the lines of its next remittance. XML is made here."""

from collections.abc import Iterator
from random import Random

from simulator import claims_catalogue as catalogue
from simulator.claims_story import Act, Story
from simulator.claims_text import moment, money, pick, weighted
from simulator.claims_types import Mix

_DENIALS = weighted(catalogue.DENIALS)
_ZERO_DENIED, _PART_DENIED, _PART, _NOTHING, _TOO_MUCH = 0.20, 0.225, 0.25, 0.26, 0.265
"""Bounds of one draw: denied; paid in part with a code; in part without; nothing, and no code; more than was asked."""


class Payer:
    def __init__(self, random: Random, licence: str, mix: Mix) -> None:
        self._random = random
        self._licence = licence
        self._mix = mix

    def remit(self, story: Story, at: int, reference: str) -> Iterator[tuple[str, int, int]]:
        """Claim elements, each with its lines and what they pay; the story knows of it afterwards."""
        settled = self._settlement(story, at)
        if story.step == "take_back":
            yield self._claim(story, settled, reference, list(self._taken_back(story)))
            if self._random.random() < 0.3:  # and paid anew in the same file
                acts = [act for act in story.acts if act.is_short and not act.denied] or story.acts[:1]
                yield self._claim(story, settled, reference, [self._pay(act, (act.net - act.paid) // 2, "") for act in acts])
        else:
            again = story.step == "rest"
            yield self._claim(story, settled, reference, list(self._rest(story) if again else self._answer(story)))

    def _settlement(self, story: Story, at: int) -> int | None:
        """After the last file that told of the claim, and not after this one; at times a late one is settled earlier."""
        random = self._random
        if story.step == "rest" and story.rounds == 0 and random.random() < 0.2:
            story.is_closed = True
            return story.settled - 1440
        story.settled = story.at + 1 + int(random.random() * (at - story.at))
        if random.random() < 0.15:
            story.settled = at
            return None
        return story.settled

    def _answer(self, story: Story) -> Iterator[tuple[str, int]]:
        random = self._random
        acts = story.acts if story.rounds == 0 else [act for act in story.acts if act.is_short] or story.acts
        kept = [act for act in acts if random.random() >= 0.02] if len(acts) > 1 else acts
        for act in kept or acts[:1]:
            open_ = max(act.net - act.paid, 0)
            drawn = random.random()
            if act.net == 0:
                yield self._pay(act, 0, "")
            elif drawn < _ZERO_DENIED:
                yield self._pay(act, 0, pick(random, _DENIALS))
            elif drawn < _PART_DENIED:
                yield self._pay(act, open_ // 3, pick(random, _DENIALS))
            elif drawn < _PART:
                yield self._pay(act, open_ * 3 // 4, "")
            elif drawn < _NOTHING:
                yield self._pay(act, 0, "")
            else:
                yield self._pay(act, open_ + (250 if drawn < _TOO_MUCH else 0), "")

    def _rest(self, story: Story) -> Iterator[tuple[str, int]]:
        for act in [act for act in story.acts if act.is_short] or story.acts:
            yield self._pay(act, 0 if act.denied else max(act.net - act.paid, 0), "")

    def _taken_back(self, story: Story) -> Iterator[tuple[str, int]]:
        random = self._random
        code = catalogue.RECOVERY if random.random() < 0.7 else ""
        paid = [act for act in story.acts if act.paid > 0]
        for act in paid if random.random() < 0.6 else paid[:1]:
            drawn = random.random()
            amount = act.paid // 2 if drawn < 0.15 else act.paid + 100 if drawn < 0.17 else act.paid
            yield self._pay(act, -amount, code)

    def _pay(self, act: Act, amount: int, denial: str) -> tuple[str, int]:
        act.paid += amount
        act.denied = bool(denial)
        random = self._random
        list_price = f"<List>{money(act.net + act.share)}</List>" if random.random() < 0.2 else ""
        gross = ""
        if random.random() >= self._mix.no_gross:
            gross = f"<Gross>{money(act.net + act.share)}</Gross><PatientShare>{money(act.share)}</PatientShare>"
        code = f"<DenialCode>{denial}</DenialCode>" if denial else ""
        return (
            f"<Activity><ID>{act.id}</ID>{act.what}<Net>{money(act.net)}</Net>{list_price}{act.clinician}{act.authorization}"
            f"{gross}<PaymentAmount>{money(amount)}</PaymentAmount>{code}</Activity>\n"
        ), amount

    def _claim(self, story: Story, settled: int | None, reference: str, lines: list[tuple[str, int]]) -> tuple[str, int, int]:
        has_provider = self._random.random() >= self._mix.no_provider
        provider = f"<ProviderID>{self._licence}</ProviderID>" if has_provider else ""
        denied = all(act.denied for act in story.acts)
        code = f"<DenialCode>{pick(self._random, _DENIALS)}</DenialCode>" if denied else ""
        day = f"<DateSettlement>{moment(settled)}</DateSettlement>" if settled is not None else ""
        place = f"<Encounter><FacilityID>{self._licence}</FacilityID></Encounter>" if self._random.random() < 0.6 else ""
        document = (
            f"<Claim><ID>{story.id}</ID><IDPayer>{story.id_payer}</IDPayer>{provider}{code}"
            f"<PaymentReference>{reference}</PaymentReference>{day}{place}\n{''.join(line for line, _ in lines)}</Claim>\n"
        )
        return document, len(lines), sum(amount for _, amount in lines)


def dirhams_xml(story: Story) -> str:
    """One for every activity, whatever its net: what a TEST file says."""
    lines = "".join(
        f"<Activity><ID>{act.id}</ID>{act.what}<Net>{money(act.net)}</Net>{act.clinician}<PaymentAmount>1.00</PaymentAmount>"
        "</Activity>\n"
        for act in story.acts
    )
    return f"<Claim><ID>{story.id}</ID><IDPayer>TEST</IDPayer><PaymentReference>TEST</PaymentReference>\n{lines}</Claim>\n"
