"""A facility's desk: claims go out in files, what comes of them follows in later files."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from random import Random

from simulator import claims_catalogue as catalogue
from simulator.claims_files import Body, file_of
from simulator.claims_paying import Payer, dirhams_xml
from simulator.claims_people import Patients
from simulator.claims_story import Stories, Story, claim_xml
from simulator.claims_text import guid, pick, weighted
from simulator.claims_types import FacilityProfile, GeneratedFile, Kind, Mix

_RESUBMISSIONS = weighted(catalogue.RESUBMISSIONS)
_MOST_ROUNDS = 2
Waiting = tuple[Kind, str]
"""What is to follow, and whom it is between: the receiver of the submissions."""


class Desk:
    """Stories wait in `waiting` until a file takes them; the file that takes one must be later than what told of it before."""

    def __init__(
        self,
        seed: int,
        facility: FacilityProfile,
        mix: Mix,
        receivers: Sequence[str],
        series: str,
        known: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.random = Random(f"{seed}-{facility.licence}")
        self.waiting: defaultdict[Waiting, list[Story]] = defaultdict(list)
        self._licence = facility.licence
        self._mix = mix
        self._receivers = list(receivers)
        # Nothing of the facility is in ids: of files and claims they are unique only with it.
        self._series = f"{series}{seed % 1000:03}"
        self._patients = Patients(self.random, mix, receivers, known)
        self._stories = Stories(self.random, facility.licence, mix)
        self._payer = Payer(self.random, facility.licence, mix)
        self._again: defaultdict[str, list[Story]] = defaultdict(list)
        self._claims = 0
        self._files = 0
        self._asked = 0  # whether a TEST file is due

    def submit(self, at: int, claims: int) -> Iterator[GeneratedFile]:
        """A file of new claims; before it perhaps a TEST file, and remittances of claims that it brings."""
        receiver = pick(self.random, self._receivers)
        stories = [self._new(receiver, at) for _ in range(claims)]
        if self._is_test_due():
            yield self._test_submission(receiver, at, stories)
        early = [story for story in stories if self._by_chance(self._mix.early)]
        if early:
            for story in early:
                story.at = at - 2880
            yield self._remittance(receiver, at - 1440, early)
        repeated = self._again.pop(receiver, [])
        yield self._submission(receiver, at, [(story, "") for story in stories + repeated])
        for story in stories:
            if story not in early:
                self._after_submission(story, receiver)

    def follow_up(self, waiting: Waiting, at: int, most: int) -> Iterator[GeneratedFile]:
        """A file of what waits there, perhaps with a TEST file before it."""
        kind, receiver = waiting
        ready = [story for story in self.waiting[waiting] if story.at + 1 < at][:most]
        if not ready:
            return
        taken = set(map(id, ready))
        self.waiting[waiting] = [story for story in self.waiting[waiting] if id(story) not in taken]
        if kind == "remittance":
            if self._is_test_due():
                yield self._test_remittance(receiver, at, ready)
            yield self._remittance(receiver, at, ready)
            for story in ready:
                self._after_remittance(story, receiver)
        else:
            yield self._submission(receiver, at, [(story, self._resubmission(story)) for story in ready])
            for story in ready:
                if self._by_chance(self._mix.reanswered):
                    self._wait(story, "remittance", receiver, "answer")

    def _new(self, receiver: str, at: int) -> Story:
        self._claims += 1
        claim_id = f"C{self._series}-{self._claims:06}"
        return self._stories.new(claim_id, self._patients.draw(receiver), at)

    def _after_submission(self, story: Story, receiver: str) -> None:
        mix = self._mix
        if self._by_chance(mix.orphaned):
            self._wait(replace(story, id=f"X{story.id}"), "remittance", receiver, "answer")
        if self._by_chance(mix.repeated):
            doubled = [replace(act, net=act.net + 5000) for act in story.acts]
            self._again[receiver].append(replace(story, acts=doubled))
        if story.patient.member == "SelfPay":
            return
        if self._by_chance(mix.remitted):
            self._wait(story, "remittance", receiver, "answer")
        elif self._by_chance(mix.resent):
            self._wait(story, "submission", receiver)

    def _after_remittance(self, story: Story, receiver: str) -> None:
        mix = self._mix
        if story.is_closed or story.id.startswith("X"):
            return
        if any(act.is_short for act in story.acts):
            if story.rounds < _MOST_ROUNDS and self._by_chance(mix.resubmitted):
                self._wait(story, "submission", receiver)
                return
            if self._by_chance(mix.rest_paid):
                self._wait(story, "remittance", receiver, "rest")
                return
        if any(act.paid > 0 for act in story.acts) and self._by_chance(mix.taken_back):
            self._wait(story, "remittance", receiver, "take_back")

    def _wait(self, story: Story, kind: Kind, receiver: str, step: str = "") -> None:
        story.step = step
        self.waiting[kind, receiver].append(story)

    def _by_chance(self, share: float) -> bool:
        return self.random.random() < share

    def _is_test_due(self) -> bool:
        every = self._mix.test_every
        self._asked += 1
        return bool(every) and self._asked % every == min(3, every - 1)

    def _resubmission(self, story: Story) -> str:
        kind = pick(self.random, _RESUBMISSIONS)
        story.rounds += 1
        story.acts_left_out = frozenset()
        if kind == "correction":
            self._correct(story)
        attached = "<Attachment>JVBERi0xLjQKJcOkCg==</Attachment>" if self._by_chance(0.2) else ""
        comment = pick(self.random, catalogue.COMMENTS)
        return f"<Resubmission><Type>{kind}</Type><Comment>{comment}</Comment>{attached}</Resubmission>\n"

    def _correct(self, story: Story) -> None:
        """Other nets for what was not paid; at times a new activity; at times what was paid is not repeated."""
        for act in story.acts:
            if act.is_short and self._by_chance(0.7):
                act.net = max(act.net * self.random.randrange(60, 120) // 100, 100)
        if self._by_chance(0.1):
            first = story.acts[0]
            story.acts.append(replace(first, id=f"{first.id}+", net=4200, paid=0, denied=False, observations=""))
        paid = frozenset(act.id for act in story.acts if act.net and not act.is_short)
        if len(paid) < len(story.acts) and self._by_chance(0.3):
            story.acts_left_out = paid

    def _submission(self, receiver: str, at: int, said: Sequence[tuple[Story, str]], *, is_test: bool = False) -> GeneratedFile:
        body, activities, amount = [], 0, 0
        for story, resubmission in said:
            body.append(claim_xml(story, self._licence, resubmission))
            acts = [act for act in story.acts if act.id not in story.acts_left_out]
            activities += len(acts)
            amount += sum(act.net for act in acts)
            story.at = at
        return self._file(Body("submission", body, activities, amount), (self._licence, receiver), at, is_test=is_test)

    def _remittance(self, receiver: str, at: int, stories: Sequence[Story]) -> GeneratedFile:
        body, lines, amount = [], 0, 0
        for number, story in enumerate(stories):
            for document, count, paid in self._payer.remit(story, at, f"EFT{at}-{number:03}"):
                body.append(document)
                lines += count
                amount += paid
            story.at = at
        return self._file(Body("remittance", body, lines, amount), (receiver, self._licence), at)

    def _test_submission(self, receiver: str, at: int, stories: Sequence[Story]) -> GeneratedFile:
        """Half of the real claims with wrong amounts, and as many that never come."""
        acts = [[replace(act, net=act.net + 100_000) for act in story.acts] for story in stories]
        said = [
            replace(story, id=f"T{story.id}" if number % 2 else story.id, acts=acts[number])
            for number, story in enumerate(stories)
        ]
        return self._submission(receiver, at, [(story, "") for story in said], is_test=True)

    def _test_remittance(self, receiver: str, at: int, stories: Sequence[Story]) -> GeneratedFile:
        """A dirham for every activity."""
        body = [dirhams_xml(story) for story in stories]
        lines = sum(len(story.acts) for story in stories)
        return self._file(Body("remittance", body, lines, 100 * lines), (receiver, self._licence), at, is_test=True)

    def _file(self, made: Body, between: tuple[str, str], at: int, *, is_test: bool = False) -> GeneratedFile:
        self._files += 1
        number = f"{self._series}{self._files:06}"
        return file_of(made, between, at, guid(self.random) if self._files % 7 == 0 else number, number, is_test=is_test)
