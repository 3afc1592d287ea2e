"""What people and agents say when something goes wrong or right: English phrases, as patterns over ``flat`` text."""

from __future__ import annotations

import re
from functools import lru_cache

from processors.text import LIMIT, words

CORRECTION = re.compile(
    r"^(?:(?:no|nope|nah)\b(?!,? (?:problem|worries|thanks|thank you|need|more|questions?)\b)|actually\b)"
    r"|\b(?:not (?:right|correct|what i)|that(?:'?s| is) (?:wrong|not)|i (?:said|meant|asked)|incorrect|try again"
    r"|you (?:missed|ignored|forgot)|wrong (?:answer|team|department|place|one))\b"
)
"""The user says that the answer was wrong."""

ESCALATION = re.compile(
    r"\b(?:speak|talk|connect|transfer|escalate|put|pass|hand)\b.{0,30}"
    r"\b(?:human|agent|person|someone|somebody|representative|manager|supervisor|operator)\b"
    r"|\b(?:human|live|real) (?:agent|person|being|operator|support)\b"
    r"|\b(?:open|raise|create|file) (?:me )?an? (?:\w+ )?ticket\b|\bescalate (?:this|it)\b"
)
"""The user asks for a person or a ticket."""

_CLOSING = re.compile(
    r"^(?:(?:ok|okay|great|perfect|awesome|cool|super|no)\W+)*(?:thanks|thank you|thx|cheers|ty)\b"
    r"|^(?:that'?s all|that is all|perfect|great|solved|got it|it works|that works|that worked|that helped"
    r"|bye|goodbye)\b"
)
_CLOSING_WORDS = 8

TOLD = re.compile(
    r"\b(?:i|we)(?:'ve| have| had)? (?:already|just) (?:\w+ )?(?:told|said|gave|given|mentioned|explained|answered"
    r"|provided|sent|asked)\b|\bas i (?:said|mentioned|told|explained|wrote)\b|\blike i said\b"
    r"|\bi (?:told|gave) you (?:that |this |it |my \w+ )?(?:already|before|earlier)\b"
    r"|\byou (?:already |just )?asked (?:me )?(?:that|this|already)\b"
)
"""The user has said it before, and says so."""

CONFUSION = re.compile(
    r"^(?:huh|what|why|who|pardon|excuse me|sorry|wtf|\?+)\W*$|\bwhat\?|\bwhat (?:do|did) you mean\b"
    r"|\bwhat (?:are|were) you (?:talking|saying|on) ?(?:about)?\b|\bwhat does (?:that|this|it) (?:mean|have)\b"
    r"|\b(?:do not|don'?t|did not|didn'?t|can'?t|cannot) (?:understand|follow|get (?:it|that|what|you))\b"
    r"|\b(?:not|doesn'?t|don'?t|didn'?t|no|any) (?:\w+ )?(?:make |making )?sense\b|\bconfus(?:ed|ing)\b"
    r"|\bare you (?:ok|okay|sure|kidding|serious|listening|there|broken|drunk|crazy|a (?:ro)?bot)\b"
    r"|\banswer (?:my|the) question\b|\bchang(?:e|ing) the (?:subject|topic)\b|\boff[- ]topic\b"
)
"""The user cannot make anything of the answer."""

COMPLAINT = re.compile(
    r"\b(?:bad|terrible|awful|horrible|useless|stupid|dumb|idiot|ridiculous|annoy(?:ed|ing)|frustrat(?:ed|ing|ion)"
    r"|disappoint(?:ed|ing|ment)|unhappy|angry|upset|unacceptable|worst|worse|sucks?|rude|boring|pathetic|nonsense"
    r"|garbage|crap|wrong|shit|damn|fuck\w*|bullshit|shut up|hopeless|unhelpful|weird|waste of|hate (?:you|this|it)"
    r"|moron|imbecile|retard(?:ed)?|asshole|bitch|dickhead|bastard|loser|liar|lying|you suck|pissed|fed up|sick of)\b"
    r"|\bnot (?:good|great|happy|helpful|working|interested|acceptable|fair|funny|nice|satisfied|enough|useful)\b"
    r"|\b(?:doesn'?t|didn'?t|isn'?t|won'?t|not) (?:work|help)\w*"
    r"|\bstill (?:can'?t|cannot|not|no|doesn'?t|isn'?t)\b"
)
"""The user is angry, disappointed, or says that it does not work."""

REJECTION = re.compile(
    r"\b(?:do not|don'?t|did not|didn'?t) (?:\w+ )?(?:like|want|need|prefer|care for)"
    r" (?:it|that|this|those|them|any|one)\b"
    r"|\bnot (?:\w+ )?(?:interested|a fan|my (?:type|taste|thing)|for me|what i'?m|the one i|into)\b"
    r"|\b(?:try|find|check|look|search|give me|suggest|show me|want|have|any) (?:\w+ )?"
    r"(?:again|another|(?:some|any)thing else|(?:a )?different|others?)\b"
    r"|\b(?:any|something|anything) (?:other|else|different)\b|\brather (?:not|have|go)\b"
)
"""The user turns down what was offered, or asks for something else."""

THANKS = re.compile(
    r"\b(?:thanks|thank you|thx|appreciate (?:it|your|the|that|all)|perfect|wonderful|excellent|awesome|fantastic"
    r"|great|that helps|sounds (?:good|great|perfect)|works for me|well done|brilliant|lovely)\b"
)
"""The user thanks or praises."""

FAILED = re.compile(
    r"\b(?:sorry|apologi[sz]e|apologies|unfortunately|unable|no idea|not (?:able|possible|available|allowed|eligible)"
    r"|beyond my|rephrase|say that again|try again|went wrong|failed to)\b"
    r"|\bi (?:can'?t|cannot|couldn'?t|could not|am not able|don'?t|do not|didn'?t|did not|can t|couldn t|don t|didn t)"
    r" (?:\w+ )?(?:answer|help|understand|find|know|do|process|get|see|have|assist|locate|verify|change|book|complete"
    r"|provide|access)\b|\bno (?:results?|match(?:es)?|such|record)\b|\bnot (?:be )?found\b"
    r"|\b(?:was|were|is|are) (?:un|not )successful\b|\bfully booked\b|\bsold out\b"
    r"|\bthere (?:is|are|were|was) (?:no|not any)\b|\bnone (?:of|that|available)\b"
    r"|\b(?:did not|didn'?t) (?:work|go through)\b|\bno longer (?:available|possible)\b"
)
"""The agent says that it could not do it."""

CANCELLED = re.compile(
    r"\bcancel+ed\b|\bcancellederror\b|\baborted?\b|\binterrupted\b|\bstopped by (?:the )?user\b|\bkeyboardinterrupt\b"
)
"""An operation ended because somebody stopped it."""


def flat(text: str) -> str:
    """A text as the patterns expect it: lower case, plain apostrophes, single spaces, the first ``LIMIT`` characters.

    >>> flat(" It\u2019s  WRONG ")
    "it's wrong"
    """
    return _flat(text[:LIMIT])


@lru_cache(64)
def _flat(text: str) -> str:
    return " ".join(text.lower().replace("\u2019", "'").split())


def is_closing(text: str) -> bool:
    """Whether a message only thanks or says good-bye.

    >>> is_closing("Great, thanks!"), is_closing("Thanks, but how do I book a room for next week?")
    (True, False)
    """
    return len(words(text)) <= _CLOSING_WORDS and bool(_CLOSING.search(flat(text)))
