"""Feedback as other platforms send it, to drafts of signals: GenAI evaluations, OpenInference annotations, scores.

One rule for all of them says what a verdict is worth (``value_of``), how much its judge is believed (``JUDGES``) and
which verdict takes the place of which: the newest of the same scope, target, name and identifier (OpenInference
specification, "Annotations and Evaluations").
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from processors.redact.drafts import Draft, Read, scrubbed, settled_time
from processors.redact.settings import keyed
from processors.stage import UNKNOWN
from schemas.errors import Invalid
from schemas.events import Signal

EVENT = "gen_ai.evaluation.result"
OWN = "driftwheel:"
"""How the identifiers begin of what was exported from here: what we said ourselves is no evidence."""
MAX_FEEDBACK = 1_000
"""Verdicts of one span that are read."""

Scope = Literal["span", "trace", "session"]

JUDGES = {"HUMAN": ("human", 1.0), "LLM": ("llm", 0.4), "CODE": ("code", 0.4)}
"""Who judged, to a signal's source and weight. A person settles a turn alone, a machine's word is one of several."""
_SOMEBODY = ("evaluator", 0.4)

_GOOD = (
    "pass passed success successful succeeded good correct accurate right valid positive relevant factual faithful "
    "grounded supported helpful complete coherent safe clean approved accepted satisfied excellent up like liked "
    "not_toxic non_toxic nontoxic not_hallucinated no_hallucination unbiased not_biased not_harmful harmless thumbs_up"
)
_BAD = (
    "fail failed failure bad incorrect inaccurate wrong invalid negative irrelevant not_relevant unrelated "
    "hallucinated hallucination unfaithful ungrounded unsupported not_supported unhelpful not_helpful incomplete "
    "incoherent unsafe rejected unsatisfied dissatisfied poor down dislike disliked toxic biased harmful "
    "not_correct not_factual not_faithful not_grounded not_complete thumbs_down"
)
_YES, _NO = "yes true y", "no false n"
_ADVERSE = re.compile(
    r"(?<![a-z])(toxic|hallucinat|bias|harm(?!less)|hate|violen|sexual|insult|profan|jailbreak|(prompt.)?injection|pii"
    r"|leak|refusal|error|risk|frustrat|unsafe|offens)"
)
_FIELD = re.compile(r"(?:(trace|session)\.)?(annotations|evaluations)\.(\d{1,4})\.(annotation|evaluation)\.(\w{1,40})")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What somebody said.

    ``judge``: HUMAN, LLM, CODE or another word, '' when not said. ``boolean``: the score is 0 or 1, for no or yes.
    ``metadata``: JSON, or any text. ``error``: why there is no verdict.
    """

    name: str
    score: float | None = None
    label: str = ""
    explanation: str = ""
    judge: str = ""
    identifier: str = ""
    metadata: str = ""
    error: str = ""
    boolean: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What a verdict is about: a span of a trace, a trace or a session; ``response``: the model's id of its answer."""

    scope: Scope = "trace"
    session: str = ""
    trace: str = ""
    span: str = ""
    response: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """What tells it from others. Raises Invalid when it is about nothing."""
        found = {"span": (self.trace, self.span), "trace": (self.trace,), "session": (self.session,)}[self.scope]
        if all(found):
            return (self.scope, *found)
        for name, value in (("trace", self.trace), ("session", self.session), ("response", self.response)):
            if value:
                return name, value
        raise Invalid("nothing_to_link", "about neither a trace, a session nor a response")


class Said(NamedTuple):
    """A verdict that a span carries: about what kind of thing, and when, if that is said."""

    scope: Scope
    verdict: Verdict
    time: datetime | None = None


@dataclass(slots=True)
class Around:
    """What is around a verdict: whose it is and when it came. ``received`` is the time of acceptance."""

    tenant: str
    message: str
    item: int
    received: datetime
    skew: float
    time: datetime | None = None
    agent: str = ""
    user: str = ""
    store: bool | None = None
    train: bool | None = None
    evaluate: bool | None = None
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


def value_of(verdict: Verdict) -> float:
    """From -1 (failure) to 1 (success); 0 says nothing.

    A known word in the label goes first, since it knows which way the score points; yes and no turn round for names of
    what is bad (``toxicity``). A score from 0 to 1 is stretched, one from -1 to 0 kept; on another scale, or for a name
    of what is bad, nobody knows what it says.

    >>> [value_of(Verdict("x", score)) for score in (0.0, 0.75, 1.0, -0.5, 4.0)]
    [-1.0, 0.5, 1.0, -0.5, 0.0]
    >>> value_of(Verdict("toxicity", 0.9)), value_of(Verdict("toxicity", 0.9, "Not toxic")), value_of(Verdict("x"))
    (0.0, 1.0, 0.0)
    """
    if verdict.error:
        return 0.0
    word = "_".join(re.findall(r"[a-z]+", verdict.label.lower()))
    adverse = _ADVERSE.search(verdict.name.lower()) is not None
    sides = (1.0, _GOOD), (-1.0, _BAD), (-1.0 if adverse else 1.0, _YES), (1.0 if adverse else -1.0, _NO)
    known = next((side for side, words in sides if word in words.split()), None)
    if known is not None:
        return known
    score = verdict.score
    if score is None or not -1 <= score <= 1 or (adverse and not verdict.boolean):
        return 0.0
    stretched = score if score < 0 else 2 * score - 1
    return -stretched if adverse else stretched


def weight_of(verdict: Verdict) -> float:
    """How much to believe it: by its judge; 0 for an evaluation that failed, and for what we said ourselves."""
    if verdict.error or verdict.identifier.startswith(OWN):
        return 0.0
    return JUDGES.get(verdict.judge, _SOMEBODY)[1]


def draft_of(verdict: Verdict, target: Target, around: Around, name: str = "evaluation", shared: str = "") -> Draft:
    """The draft of a signal. ``shared``: what its revisions share instead of scope, target, name and identifier.

    Its ids are not sealed yet, see ``sealed``. Raises Invalid when it is about nothing.
    """
    time, off = settled_time(around.time, around.received, around.skew)
    same = shared or _joined(*target.parts, verdict.name, verdict.identifier)
    content = (verdict.score, verdict.label, verdict.explanation, verdict.judge, verdict.metadata, verdict.error)
    source = JUDGES.get(verdict.judge, (verdict.judge or _SOMEBODY[0], 0.0))[0]
    return Draft(
        kind=Signal,
        tenant=around.tenant,
        event_id=_joined(same, name, *map(str, content), time.isoformat()),
        message=around.message,
        item=around.item,
        agent=around.agent or UNKNOWN,
        event_time=time,
        facts={
            "name": name,
            "kind": "explicit",
            "value": -1.0 if name == "correction" else value_of(verdict),
            "weight": weight_of(verdict),
            "feedback_id": same,
            "received_time": around.received,
        },
        ids={"session_id": target.session, "turn_id": "", "trace_id": target.trace, "span_id": target.span},
        words={"source": scrubbed(source)},
        texts={"text": scrubbed(verdict.explanation), "text_before": ""},
        attributes=_attributes(verdict, target, around) | ({"driftwheel.clock_skew": off} if off else {}),
        user=around.user,
        store=around.store,
        train=around.train,
        evaluate=around.evaluate,
    )  # fmt: skip


def _attributes(verdict: Verdict, target: Target, around: Around) -> dict[str, str]:
    given = {
        **around.attributes,
        "gen_ai.evaluation.name": verdict.name,
        "gen_ai.evaluation.score.value": "" if verdict.score is None else repr(verdict.score),
        "gen_ai.evaluation.score.label": verdict.label,
        "annotation.annotator_kind": verdict.judge,
        "annotation.identifier": verdict.identifier,
        "annotation.metadata": verdict.metadata,
        "annotation.scope": target.parts[0],
        "gen_ai.response.id": target.response,
        "error.type": verdict.error,
    }
    return {name: scrubbed(text) for name, text in given.items() if text}


def sealed(draft: Draft, key: bytes) -> Draft:
    """A draft of this module whose ids tell nobody what they were made of: keyed hashes."""
    draft.event_id = keyed(key, "signal", draft.event_id)[:32]
    draft.facts["feedback_id"] = keyed(key, "feedback", draft.facts["feedback_id"])[:32]
    return draft


def _joined(*parts: str) -> str:
    return json.dumps(parts)


# What spans and log records carry.


def event_verdict(values: Mapping[str, Any]) -> Verdict:
    """A ``gen_ai.evaluation.result`` event. Raises Invalid when it has no name, or says nothing.

    OpenInference's fields which the convention lacks are read under their own names.
    """
    verdict = Verdict(
        _text(values, "gen_ai.evaluation.name"),
        _number(values.get("gen_ai.evaluation.score.value")),
        _text(values, "gen_ai.evaluation.score.label"),
        _text(values, "gen_ai.evaluation.explanation"),
        _text(values, "annotation.annotator_kind", "evaluation.annotator_kind"),
        _text(values, "annotation.identifier", "evaluation.identifier"),
        _text(values, "annotation.metadata", "evaluation.metadata"),
        _text(values, "error.type"),
    )
    if not _is_whole(verdict):
        raise Invalid("invalid_evaluation", "gen_ai.evaluation.name and one of score, label, explanation are needed")
    return verdict


def annotated(values: Mapping[str, Any]) -> list[tuple[Scope, Verdict]]:
    """The OpenInference annotations and evaluations among a span's attributes; what is not whole is left out.

    A result in both forms is one.
    """
    objects: dict[tuple[str, str, int], dict[str, Any]] = {}
    for key, value in values.items():
        found = _FIELD.fullmatch(key)
        if found and found[2].removesuffix("s") == found[4]:
            objects.setdefault((found[1] or "span", found[2], int(found[3])), {})[found[5]] = value
    verdicts: dict[tuple[str, str, str], tuple[Scope, Verdict]] = {}
    for (scope, _, _), one in sorted(objects.items(), key=lambda pair: pair[0]):
        verdict = Verdict(
            _text(one, "name"), _number(one.get("score")), _text(one, "label"), _text(one, "explanation"),
            _text(one, "annotator_kind"), _text(one, "identifier"), _text(one, "metadata"),
        )  # fmt: skip
        if _is_whole(verdict):
            verdicts[scope, verdict.name, verdict.identifier] = (_scope(scope), verdict)
    return [*verdicts.values()][:MAX_FEEDBACK]


def feedback_of(
    values: Mapping[str, Any], events: Sequence[tuple[str, Mapping[str, Any]]], times: Sequence[datetime | None]
) -> list[Said]:
    """Everything that a span says of itself or another, by its attributes and events; what is not whole is left out."""
    found = [Said(scope, verdict) for scope, verdict in annotated(values)]
    for (name, given), time in zip(events, times, strict=True):
        if name == EVENT and len(found) < MAX_FEEDBACK:
            try:
                found.append(Said("span", event_verdict(given), time))
            except Invalid:
                continue
    return found


def with_feedback(spans: Sequence[Draft | Invalid], received: datetime, skew: float) -> Read:
    """Spans, and after them the signals that they carry.

    A span that is there for its feedback alone has its first signal in its place. An evaluator's span stays a span, of
    no session that people are in.
    """
    drafts, more = list[Draft | Invalid](spans), list[Draft | Invalid]()
    for place, span in enumerate(spans):
        if not isinstance(span, Draft) or not span.feedback:
            continue
        carrier = _is_carrier(span)
        for said in span.feedback:
            in_place = said is span.feedback[0] and carrier and span.facts["kind"] == "other"
            item = place if in_place else len(spans) + len(more)
            signal = _signal(span, said, carrier, item, received, skew)
            if in_place:
                drafts[place] = signal
            else:
                more.append(signal)
        if carrier:
            span.ids["session_id"] = ""
    return Read([*drafts, *more], len(more))


def _is_carrier(span: Draft) -> bool:
    """Whether a span's feedback is about the span that it links, and not about itself."""
    silent = not span.texts["input"] and not span.texts["output"]
    return span.facts["kind"] == "evaluator" or (span.facts["kind"] == "other" and silent and len(span.links) == 1)


def _signal(span: Draft, said: Said, carrier: bool, item: int, received: datetime, skew: float) -> Draft | Invalid:
    around = Around(
        tenant=span.tenant, message=span.message, item=item, received=received, skew=skew,
        time=said.time or span.event_time, agent=span.agent, user=span.user, store=span.store, train=span.train,
        evaluate=span.evaluate,
    )  # fmt: skip
    trace, one = span.facts["trace_id"], span.facts["span_id"]
    if carrier and said.scope != "session" and span.links:
        if len(span.links) > 1:
            links = f"{len(span.links)} links, its feedback needs exactly one"
            return Invalid("nothing_to_link", f"item {item}, feedback of a span: the span has {links}")
        trace, one = span.links[0]
        around.agent = "" if span.agent == span.service else span.agent
        around.attributes = {"service.name": span.service}
    target = Target(
        said.scope, span.session, "" if said.scope == "session" else trace, one if said.scope == "span" else ""
    )
    try:
        return draft_of(said.verdict, target, around)
    except Invalid as error:
        return Invalid(error.reason, f"item {item}, feedback of a span: {error.detail}")


def _scope(name: str) -> Scope:
    return "session" if name == "session" else "trace" if name == "trace" else "span"


def _is_whole(verdict: Verdict) -> bool:
    says = verdict.score is not None or verdict.label or verdict.explanation or verdict.error
    return bool(verdict.name and says)


def _text(values: Mapping[str, Any], *names: str) -> str:
    found = (values.get(name) for name in names)
    return next((scrubbed(str(one)) for one in found if isinstance(one, (str, int, float)) and one != ""), "")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None
