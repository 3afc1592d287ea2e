"""Operations of an agent and the stories made of them, before anyone rendered them as spans."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schemas.events import Cause


class Fact(NamedTuple):
    """Something a help desk knows: how it is asked, where it stands, what is right; ``about`` has ``key`` in it."""

    ask: str
    document: str
    answer: str
    key: str
    tool: str
    expert: str


FACTS = (
    Fact("How many days do I have to return shoes from order A-4471?",
         "Return window. Shoes can be sent back within 45 days of delivery when they are unworn. The refund goes to the"
         " original payment method within 5 working days.",
         "You can send unworn shoes back within 45 days of delivery, and the refund goes to your original payment"
         " method.", "A-4471", "get_order", "returns"),
    Fact("What does roaming cost in Switzerland on the Premium plan?",
         "Roaming in Switzerland. Premium plan customers pay 12 euros a month for roaming in Switzerland; calls and 10"
         " GB of data are included.",
         "Roaming in Switzerland costs 12 euros a month on the Premium plan, with calls and 10 GB of data.", "Premium",
         "get_plan", "billing"),
    Fact("Can I carry over 7 holidays from 2024 into next year?",
         "Carrying over leave. Up to 5 days of annual leave may be carried over until 31 March. More needs the approval"
         " of a manager in writing.",
         "Up to 5 days of annual leave can be carried over until 31 March; more needs written approval of your"
         " manager.", "2024", "leave_balance", "people"),
    Fact("How do I set up the VPN client on Ubuntu 22.04?",
         "VPN client on Linux. Install the package openconnect, import the profile from the portal and sign in with"
         " your security token. Ubuntu releases from 20.04 are supported.",
         "Install openconnect, import the profile from the portal and sign in with your security token.", "Ubuntu",
         "device_status", "it"),
    Fact("Which documents does a mortgage application in Bavaria need?",
         "Mortgage applications. Applicants submit three salary slips, the land register extract and proof of equity."
         " In Bavaria the notary appoints the appointment within 14 days.",
         "You need three salary slips, the land register extract and proof of equity.", "Bavaria", "credit_check",
         "loans"),
    Fact("Is water damage covered by policy HX-22 when a pipe bursts?",
         "Household policy. Damage from burst pipes is covered up to 25000 euros with a deductible of 150 euros. Slow"
         " leaks are excluded.",
         "Damage from burst pipes is covered up to 25000 euros, with a deductible of 150 euros.", "HX-22",
         "policy_lookup", "claims"),
    Fact("When does the night train to Vienna leave on Sundays?",
         "Night train timetable. The night train to Vienna departs at 21:47 from platform 9, on Sundays at 22:15."
         " Bicycles need a reservation.",
         "On Sundays the night train to Vienna departs at 22:15 from platform 9.", "Vienna", "timetable", "travel"),
    Fact("How long does the battery warranty of the X200 scooter last?",
         "Scooter warranty. The frame has a warranty of 5 years, the battery of the X200 one of 24 months or 800 charge"
         " cycles, whichever comes first.",
         "The battery of the X200 has a warranty of 24 months or 800 charge cycles.", "X200", "warranty_status",
         "repairs"),
    Fact("What is the meal allowance for a business trip to Oslo?",
         "Travel expenses. The meal allowance for Norway is 61 euros for a full day and 41 euros for days of arrival"
         " and departure. Receipts are not needed.",
         "The meal allowance for Norway is 61 euros for a full day and 41 euros on days of arrival and departure.",
         "Oslo", "expense_rates", "finance"),
    Fact("How do I export invoices from the Ledger app as CSV?",
         "Exporting invoices. Open Reports in the Ledger app, choose Invoices, set the period and press Export. CSV and"
         " XLSX are offered; at most 10000 rows.",
         "Open Reports in the Ledger app, choose Invoices, set the period and press Export as CSV.", "Ledger",
         "app_status", "product"),
    Fact("Can my child of 11 fly alone from Lisbon to Berlin?",
         "Unaccompanied minors. Children from 5 to 11 years fly alone only with our escort service, which costs 75"
         " euros a flight and is booked by telephone.",
         "Children from 5 to 11 years fly alone only with the escort service, which costs 75 euros a flight.", "Lisbon",
         "booking", "travel"),
    Fact("Which dose of Ibuprofen 400 is allowed for adults in a day?",
         "Package leaflet. Adults take at most 3 tablets of Ibuprofen 400 in 24 hours with meals, at least 6 hours"
         " apart. Do not combine with aspirin.",
         "Adults take at most 3 tablets of Ibuprofen 400 in 24 hours, at least 6 hours apart.", "Ibuprofen",
         "stock_level", "pharmacy"),
)  # fmt: skip
"""Made up, every one of them."""

SMALL_TALK = (
    ("Hello, I have a question about my account.", "Hello! What can I do for you?"),
    ("Are you open on Saturdays?", "Yes, from 9 to 14 o'clock, I think; the page of your branch has it for sure."),
    ("Can you help me in English?", "Of course, go ahead."),
    ("Thanks for earlier, one more thing.", "You are welcome. What is it?"),
)


@dataclass(slots=True)
class Op:
    """One operation. ``under``: the operation above it, by its place in the turn; the first is the root."""

    kind: str
    name: str
    input: str = ""
    output: str = ""
    error: str = ""
    docs: tuple[tuple[str, float | None], ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    under: int = 0
    category: str = ""


@dataclass(slots=True)
class Story:
    """A conversation of which the turn ``fails`` fails because of ``cause``. ``said``: feedback on that turn."""

    cause: Cause
    form: str
    dialect: str
    turns: list[list[Op]]
    fails: int = 0
    said: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class Form(NamedTuple):
    """One way in which a cause shows itself. ``tell`` adds it to a kit; ``alone``: it brings its own reaction."""

    cause: Cause
    name: str
    dialect: str
    tell: Callable[[Kit], None]
    alone: bool = False


class Kit:
    """What forms are told with: facts, a seeded chance and the turns so far."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.fact, *self.others = chance.sample(FACTS, 5)
        self.turns: list[list[Op]] = []
        self.said: list[dict[str, Any]] = []

    def choice(self, *some: Any) -> Any:
        """One of them."""
        return self.chance.choice(some)

    def turn(self, ask: str, answer: str, *ops: Op, error: str = "", category: str = "") -> None:
        """A turn of the agent: the root, and what it did."""
        self.turns.append([Op("agent", "assistant", ask, answer, error=error, category=category), *ops])

    def search(self, query: str, facts: tuple[Fact, ...], low: float = 0.62, high: float = 0.94, **given: Any) -> Op:
        """A retrieval of these facts' documents."""
        scores = sorted((round(self.chance.uniform(low, high), 3) for _ in facts), reverse=True)
        docs = tuple((one.document, score) for one, score in zip(facts, scores, strict=True))
        return Op("retrieval", self.choice("vector_store", "retriever", "search_index"), query, docs=docs, **given)

    def found(self, query: str = "") -> Op:
        """A good retrieval: the right document, most often among others."""
        return self.search(query or self.fact.ask, (self.fact, *self.others[: self.chance.randint(0, 2)]))

    def tool(self, output: str = "", **given: Any) -> Op:
        """A call of the fact's tool that works."""
        known = output or '{"status": "active", "id": "' + self.fact.key + '", "updated": "today"}'
        return Op("tool", self.fact.tool, '{"id": "' + self.fact.key + '"}', known, **given)

    def model(self, ask: str, answer: str, **given: Any) -> Op:
        """A call of the language model."""
        return Op("llm", self.choice("chat", "ChatOpenAI", "completion"), ask, answer, **given)

    def react(self) -> None:
        """The user is not content, in one of several ways."""
        way = self.chance.randrange(4)
        if way == 0:
            self.said.append({"name": "rating", "value": -1.0})
        elif way == 1:
            self.turn(f"No, that's wrong. {self.fact.ask}", "Let me look again.", self.model("again", "Let me look."))
            self.said.append({"name": "rating", "value": -0.8})
        elif way == 2:
            self.said.append({"name": "rejection", "value": -1.0, "text": "not helpful"})
        else:
            self.turn("I want to talk to a human agent please.", "I will connect you.")
            self.said.append({"name": "rating", "value": -0.6})

    def noise(self) -> list[Op]:
        """Things that happen without consequence."""
        some: list[Op] = []
        if self.chance.random() < 0.3:
            some += [Op("tool", "get_profile", '{"user": "me"}', "", error="connection reset")]
            some += [Op("tool", "get_profile", '{"user": "me"}', '{"tier": "standard", "since": 2019}')]
        if self.chance.random() < 0.3:
            some.append(Op("tool", self.choice("current_time", "log_event", "get_locale"), "{}", '{"ok": true}'))
        if self.chance.random() < 0.15:
            some.append(Op("llm", "guardrail_check", "is this safe", "yes"))
        return some


def story(form: Form, chance: random.Random) -> Story:
    """One story of a form, with turns before it and noise within it."""
    kit = Kit(chance)
    for ask, answer in chance.sample(SMALL_TALK, chance.choice((0, 0, 1, 2))):
        kit.turn(ask, answer, kit.model(ask, answer))
    if chance.random() < 0.3:  # an earlier question that went well although its documents scored poorly
        other = kit.others[3]
        kit.turn(other.ask, other.answer, kit.search(other.ask, (other,), 0.3, 0.5), kit.model(other.ask, other.answer))
    before = len(kit.turns)
    form.tell(kit)
    fails = next((n for n in range(before, len(kit.turns)) if kit.turns[n][0].attributes.get("fails")), before)
    noise = kit.noise()
    kit.turns[fails][1:1] = noise
    for one in kit.turns[fails][1 + len(noise) :]:
        one.under += len(noise) if one.under else 0
    if not form.alone:
        kit.react()
    return Story(form.cause, form.name, form.dialect, kit.turns, fails, kit.said)


def stories(forms: tuple[Form, ...], each: int, seed: int) -> Iterator[Story]:
    """``each`` stories of every form."""
    for form in forms:
        for number in range(each):
            yield story(form, random.Random(f"{seed} {form.name} {number}"))
