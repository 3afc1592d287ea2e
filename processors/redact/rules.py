"""Our own recognisers: what Presidio's stock ones miss in the text of agents. Patterns, key names, encodings.

A rule names an entity, a pattern and a score; the score says how sure a match alone is. Precision counts as much as
recall here: what is masked is lost for training, so cues (``order no``, ``my name is``) carry most rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import regex


@dataclass(frozen=True, slots=True)
class Rule:
    """``digits``: a text without any digit cannot match, nor one without any of ``needs`` (in small letters).

    ``valid`` refuses matches by content.
    """

    entity: str
    pattern: Any
    score: float
    digits: bool = False
    needs: tuple[str, ...] = ()
    valid: Callable[[str], bool] | None = None

    def may_match(self, low: str, digits: bool) -> bool:
        """Whether a text, given in small letters, may match: cheaper than the pattern, and never wrong about a no."""
        return (digits or not self.digits) and (not self.needs or any(need in low for need in self.needs))


def luhn(text: str) -> bool:
    """Whether the digits of a text end in their Luhn check digit (ISO/IEC 7812-1), and are not all the same.

    >>> luhn("4111 1111 1111 1111"), luhn("4111 1111 1111 1112")
    (True, False)
    """
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [sum(divmod(d * 2, 10)) for d in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _card_shape(text: str) -> bool:
    digits = [c for c in text if c.isdigit()]
    return len(digits) in {15, 16} and digits[0] in "23456"


def _hash_free(text: str) -> bool:
    return any(c.isdigit() for c in text) and any(c.isalpha() for c in text)


def _ssn(text: str) -> bool:
    area, group, serial = (part for part in regex.split(r"[- ]", text))
    return area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"


def _no_release(text: str) -> bool:
    """A package with its version (``typescript@5.4.2``) is no mail address; one at an IP address is."""
    return regex.search(r"@\d+\.\d+(?:\.\d+)?$", text) is None


def _phone_count(text: str) -> bool:
    return 7 <= sum(c.isdigit() for c in text) <= 15


_FLAGS = regex.IGNORECASE | regex.MULTILINE


def _rule(
    entity: str,
    pattern: str,
    score: float,
    *,
    cased: bool = False,
    digits: bool = False,
    needs: str = "",
    valid: Callable[[str], bool] | None = None,
) -> Rule:
    flags = regex.MULTILINE if cased else _FLAGS
    return Rule(entity, regex.compile(pattern, flags), score, digits, tuple(needs.split("|")) if needs else (), valid)


_STREET = (
    r"(?:street|st|avenue|ave|road|rd|boulevard|blvd|drive|dr|lane|ln|way|court|ct|place|pl|square|sq|terrace|highway"
    r"|hwy|parkway|pkwy|circle|cir|trail|loop|alley|row|crescent|close|grove|hill|mews)"
)
_STATES = (
    "A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[AT]|W[AIVY]"
)
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = (
    rf"(?:\d{{1,4}}[./-]\d{{1,2}}[./-]\d{{1,4}}|\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH},? \d{{2,4}}"
    rf"|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{2,4}}|\d{{8}})"
)
_NOT_A_STREET = (
    r"(?:days?|hours?|hrs?|minutes?|mins?|weeks?|months?|years?|miles?|km|times?|people|of|to|the|in|on|for|my|a|an"
    r"|and|at|is|are|was|or|per|from|with|i|we|you)\b"
)
_NOT_A_NAME = (
    r"(?:wrong|misspel\w+|spel\w+|not|on|in|incorrect\w*|missing|the|still|listed|show\w*|changed|changing|a|an|being"
    r"|too|already|no|now|displayed|different|and|but|so|cut|very|it|my|also|appearing|written|taken|out)\b"
)
_AFTER_NAME = (
    r"(?:and|but|i|im|my|is|with|from|the|on|in|can|please|at|to|not|was|here|so|for|of|a|an|who|what|it|as|or|you)\b"
)
_LETTERS = r"[^\W\d_][\w'\u2019\-]*"
_NAME = r"[A-Z\u00c0-\u00de][\w'\u2019\-]+"
_ID_CUE = (
    r"\b(?:order|reservation|booking|confirmation|ticket|account|acct|invoice|member|membership|customer|case"
    r"|policy|claim|employee|badge|patient|flyer|tracking|loan|contract)"
    r"(?: (?:id|no|num|number|code|ref|reference))?[.:#]{0,2} ?(?:is |no\.? )?#?"
)

_IDS = (
    "order|reservation|booking|confirmation|ticket|account|acct|invoice|member|customer|case|policy|claim|employee|badge"
    "|patient|flyer|tracking|loan|contract"
)
_KEYS = "key|secret|token|passw|passphrase|pwd"
_AT = "@|%40|\uff20"
_SAID_AT = " at |(at)|[at]|{at}"

SECRETS = (_rule("SECRET", r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", 0.99),)
"""Rules that run over whole texts, since their matches are longer than a piece."""

RULES: tuple[Rule, ...] = (
    _rule("EMAIL_ADDRESS", r"[\w.+'\-]+(?:@|%40|\uff20)[\w\-]+(?:\.[\w\-]+)+", 0.95, needs=_AT, valid=_no_release),
    _rule("EMAIL_ADDRESS", r"[^\s@<>\"'(),;:]+(?:@|%40)[^\s@<>\"'(),;:/]+\.\w{2,}", 0.9, needs=_AT),
    _rule(
        "EMAIL_ADDRESS",
        r"[\w.+\-]+ ?@ ?[\w\-]+(?: ?\. ?[\w\-]+)* ?\. ?(?:com|org|net|edu|gov|io|de|uk|fr)\b",
        0.9,
        needs="@",
    ),
    _rule(
        "EMAIL_ADDRESS",
        r"\b[\w.+\-]+(?:(?: dot |\(dot\)|\[dot\])[\w\-]+)* ?(?:\(at\)|\[at\]|\{at\}| at ) ?[\w\-]+"
        r"(?: ?(?:\(dot\)|\[dot\]|\{dot\}| dot ) ?[a-z]{2,})+\b",
        0.85,
        needs=_SAID_AT,
    ),
    _rule(
        "EMAIL_ADDRESS",
        r"\b[\w.+\-]+(?: (?:dot|underscore|dash|minus) [\w\-]+)+ ?(?:\(at\)|\[at\]|\{at\}| at ) ?[\w\-]+"
        r"(?: ?(?:\(dot\)|\[dot\]|\{dot\}| dot ) ?[a-z]{2,})+\b",
        0.9,
        needs=_SAID_AT,
    ),
    _rule(
        "EMAIL_ADDRESS",
        r"[\w+\-]+(?:\[?\.\]?[\w+\-]+)*\[?@\]?[\w\-]+(?:\[?\.\]?[\w\-]+)*\[\.\][a-z]{2,}",
        0.9,
        needs="@",
    ),
    _rule("CREDIT_CARD", r"(?<!\d)(?<!\d\.)\d(?:[ \-._]{0,2}\d){12,18}(?!\d)", 1.0, digits=True, valid=luhn),
    _rule("CREDIT_CARD", r"(?<!\d)\d(?:[ \-]?\d){12,18}(?!\d)", 1.0, digits=True, valid=luhn),
    _rule("CREDIT_CARD", r"(?<![\w.])\d(?:[ \-]?\d){14,15}(?!\w)", 0.6, digits=True, valid=_card_shape),
    _rule("CREDIT_CARD", r"(?<=\bending (?:in |with )?)\d{4}\b", 0.7, digits=True),
    _rule("CREDIT_CARD", r"(?<=\blast (?:four|4)(?: digits)?\W{1,3}(?:are |is )?)\d{4}\b", 0.7, digits=True),
    _rule("CREDIT_CARD", r"(?<=\bcard(?: number| no)?[ :.#]{1,3}(?:is )?)\d(?:[ \-]?\d){11,18}\b", 0.7, digits=True),
    _rule("US_SSN", r"(?<![\w\-])\d{3}[- ]\d{2}[- ]\d{4}(?![\w\-])", 0.85, digits=True, valid=_ssn),
    _rule("US_SSN", r"(?<=\b(?:ssn|social security(?: number)?)\W{1,3}(?:is )?)\d{9}\b", 0.9, digits=True),
    _rule("PHONE_NUMBER", r"\+\d{1,3}[ ().\-]{0,3}(?:\d[ ().\-/]{0,2}){5,12}\d(?!\w)", 0.9, digits=True),
    _rule(
        "PHONE_NUMBER",
        r"(?<![\w.\-])(?:\+?1[ .\-]?)?(?:\(\d{3}\) ?|\d{3}[ .\-]{1,2})\d{3}[ .\-]{1,2}\d{4}"
        r"(?:(?: ?x| ext\.? ?)\d{1,6})?(?![\w])",
        0.8,
        digits=True,
    ),
    _rule("PHONE_NUMBER", r"(?<![\w.\-/])[2-9]\d{2}[\-.]\d{4}(?![\w\-]|\.\d)", 0.6, digits=True),
    _rule("PHONE_NUMBER", r"(?<![\w.])00[1-9]\d{0,2}[ \-]?(?:\d[ \-]?){6,11}\d(?!\w)", 0.7, digits=True),
    _rule("PHONE_NUMBER", r"(?<![\w.\-])0\d{2,4}[ \-]\d{3,4}[ \-]?\d{3,4}(?![\w\-])", 0.6, digits=True),
    _rule("PHONE_NUMBER", r"(?<![\w.])(?:\d ){9,10}\d(?![\w.])", 0.6, digits=True),
    _rule(
        "PHONE_NUMBER",
        r"(?<=\b(?:phone|cell|mobile|tel|telephone|call|ring|fax|whatsapp|text|reach|number|msisdn|sms|n[u\u00fa]mero"
        r"|tel[e\u00e9]fon[eo]?|t[e\u00e9]l|handy|celular|cellulare|portable|rufnummer)"
        r"(?: (?:me|him|her|us|them|number|no))?(?: (?:at|on|is|to))?[ .:#]{1,3})[+(\d][\d ().\-]{5,18}\d\b",
        0.7,
        digits=True,
        valid=_phone_count,
        needs="phone|cell|mobile|tel|call|ring|fax|whatsapp|text|reach|number|msisdn|sms|n\u00famero|numero|t\u00e9l|handy|portable|celular"
        "|rufnummer",
    ),
    _rule(
        "PHONE_NUMBER",
        r"\b(?:(?:zero|oh|one|two|three|four|five|six|seven|eight|nine)[ ,\-]+){6,}"
        r"(?:zero|oh|one|two|three|four|five|six|seven|eight|nine)\b",
        0.7,
        needs="zero|oh|one|two|three|four|five|six|seven|eight|nine",
    ),
    _rule(
        "PHONE_NUMBER",
        r"(?<=\b(?:at|on|to|from) )(?!(?:19|20)\d\d[ \-])\(?\d{2,4}\)?(?:[ \-]\d{2,6}){1,4}(?![\w\-]|\.\d)",
        0.5,
        digits=True,
        valid=_phone_count,
    ),
    _rule(
        "IBAN_CODE",
        r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])",
        0.7,
        cased=True,
        digits=True,
    ),
    _rule(
        "ADDRESS",
        rf"\b\d{{1,6}}[A-Za-z]?(?: +[A-Z0-9][\w.'\u2019\-]*){{1,4}} +(?i:{_STREET})\b\.?"
        r"(?:[, ]+(?i:apt|apartment|suite|ste|unit|flat|floor|no|#)\.? ?#?\w+)?",
        0.8,
        cased=True,
        digits=True,
    ),
    _rule(
        "ADDRESS",
        rf"\b\d{{1,6}}[a-z]?(?: +(?!{_NOT_A_STREET})[a-z.'\u2019\-]+){{1,3}} +"
        r"(?:street|st|avenue|ave|road|rd|boulevard|blvd|lane|ln|terrace|parkway|pkwy|highway|hwy)\b"
        r"(?:[, ]+(?:apt|apartment|suite|ste|unit|flat)\.? ?#?\w+)?",
        0.7,
        digits=True,
    ),
    _rule("ADDRESS", r"\b(?:apt|apartment|suite|ste|flat)\.? ?#?\d+\w?\b", 0.6, digits=True),
    _rule("ADDRESS", r"\bp\.? ?o\.? ?box \d+\b", 0.8, digits=True),
    _rule(
        "ADDRESS",
        r"\b[^\W\d_]{3,}(?:stra(?:\u00df|ss)e|str\.|weg|gasse|platz|allee|laan|straat|gatan|v\u00e4gen|vej|katu)"
        r" \d{1,4} ?[a-z]?\b",
        0.7,
        digits=True,
        needs="stra|str.|weg|gasse|platz|allee|laan|gatan|v\u00e4gen|vej|katu",
    ),
    _rule(
        "ADDRESS",
        r"\b\d{1,4}(?: ?(?:bis|ter))?,? (?:rue|via|viale|calle|rua|chemin|piazza|plaza) (?:[\w'\u2019\-]+ ?){1,4}",
        0.7,
        digits=True,
        needs="rue|via|calle|rua|chemin|piazza|plaza",
    ),
    _rule(
        "ADDRESS",
        rf"\b(?:rue|avenue|av\.|boulevard|via|viale|corso|piazza|calle|c/|avenida|avda\.?|paseo|plaza|rua|ulica|ul\.|ulice)"
        rf"(?: (?:de|del|la|las|los|el|des|du|della|di|da|do))* {_LETTERS}(?: {_LETTERS}){{0,3}},? \d{{1,5}}[a-z]?\b"
        rf"(?:, ?[\w\u00ba\u00aa. ]{{1,12}})?(?:, ?\d{{4,5}} {_LETTERS}(?: {_LETTERS}){{0,2}})?",
        0.9,
        digits=True,
    ),
    _rule("ADDRESS", r"(?<=\baddress(?: is|:) )\d[^\n]{5,80}", 0.6, digits=True),
    _rule("ADDRESS", rf"\b(?:{_STATES}),? \d{{5}}(?:-\d{{4}})?\b", 0.7, cased=True, digits=True),
    _rule("ADDRESS", r"(?<=\b[A-Z][a-z]+, )\d{5}(?:-\d{4})?\b", 0.6, cased=True, digits=True),
    _rule("ADDRESS", r"\b[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}\b", 0.7, cased=True, digits=True),
    _rule(
        "ADDRESS",
        r"(?<=\b(?:zip|post|postal)(?: ?code)?\W{1,3}(?:is )?)\d{3,6}(?:-\d{3,4}| \d{2,3}| (?-i:[A-Z]{2}))?\b",
        0.7,
        digits=True,
        needs="zip|post",
    ),
    _rule(
        "ORGANIZATION",
        rf"\b{_NAME}(?:,? (?:{_NAME}|&|and|of)){{0,5}},? "
        r"(?:Inc|Ltd|LLC|LLP|GmbH|Corp|PLC|Pty|S\.A|B\.V|N\.V|S\.r\.l|AG|KG|Oy|AB)\b\.?",
        0.7,
        cased=True,
        needs="inc|ltd|llc|llp|gmbh|corp|plc|pty|s.a|b.v|n.v|s.r.l|ag|kg|oy|ab",
    ),
    _rule(
        "ORGANIZATION",
        r"(?<=\b(?:[Ww]ork(?:s|ed|ing)? (?:at|for)|[Ee]mployed (?:at|by)|[Ee]mployer(?: is|:)) )"
        rf"{_NAME}(?: (?:{_NAME}|&)){{0,4}}",
        0.6,
        cased=True,
        needs="work|employ",
    ),
    _rule(
        "DATE_OF_BIRTH",
        rf"(?<=\b(?:dob|d\.o\.b\.|born|birth ?day|birth ?date|date of birth)[^\d\n]{{1,20}}){_DATE}\b",
        0.85,
        digits=True,
        needs="dob|d.o.b|born|birth",
    ),
    _rule(
        "DATE_OF_BIRTH",
        rf"(?<=\b(?:born on|born|birthday is|birthdate is|date of birth is|dob:?) ){_DATE}",
        0.85,
        digits=True,
        needs="dob|born|birth",
    ),
    _rule("AGE", r"\b\d{1,3}(?=[ \-]?(?:years?|yrs?)[ \-]old\b)", 0.7, digits=True),
    _rule(
        "AGE",
        r"(?<=\b(?:turn|turned|turns|turning|aged?|age of|(?:he|she|i) (?:was|is|am)) )"
        r"\d{2}(?=[.,!?;]|$| (?:when|and|last|this|next|in)\b)",
        0.6,
        digits=True,
    ),
    _rule(
        "PERSON",
        rf"(?<=^(?:[Tt]hanks|[Tt]hank you|[Rr]egards|[Kk]ind regards|[Bb]est|[Bb]est regards|[Cc]heers|[Ss]incerely)"
        rf"[,.!]?\n{{1,2}}){_NAME}(?: {_NAME}){{0,3}}$",
        0.9,
        cased=True,
    ),
    _rule("PERSON", rf"(?<=\"){_NAME}, {_NAME}(?=\" ?<)", 0.9, cased=True),
    _rule(
        "PERSON",
        rf"(?:^|[.!?] )(?:[Tt]hanks|[Tt]hank you|(?:[Bb]est |[Kk]ind )?[Rr]egards|[Cc]heers|[Ss]incerely),? "
        rf"\K(?!(?i:team|all|every\w+|guys|again|folks|support|yes|no|ok|so|for|but|and|in|i)\b)"
        rf"{_NAME}(?: {_NAME})?[.!]?$",
        0.6,
        cased=True,
        needs="thank|regards|cheers|sincerely",
    ),
    _rule(
        "PERSON",
        rf"\b(?i:(?:passenger|customer|guest|contact|recipient|patient|client|employee|card_?holder|full_?name|name)=)"
        rf"\K{_NAME}(?: {_NAME}){{1,2}}(?=[;,&|\n]|$)",
        0.7,
        cased=True,
        needs="=",
    ),
    _rule(
        "PERSON",
        rf"\b{_NAME}(?: {_NAME})? (?:bin|bint|ibn|ben) {_NAME}(?: {_NAME})?",
        0.9,
        cased=True,
        needs="bin|bint|ibn|ben",
    ),
    _rule("PERSON", rf"{_NAME}(?: al-{_NAME})(?: (?:bin|bint|ibn) {_NAME})*", 0.9, cased=True, needs="al-"),
    _rule(
        "PERSON",
        rf"(?<=\b(?:my name is|my name's|name is|name's|names) )(?!{_NOT_A_NAME}){_LETTERS}"
        rf"(?: (?!{_AFTER_NAME}|{_NOT_A_NAME}){_LETTERS}){{0,1}}",
        0.6,
        needs="name",
    ),
    _rule(
        "PERSON",
        rf"(?<=\b(?:[Tt]his is|I am|I'm|under the name(?: of)?|on behalf of|[Rr]egards,?\s+|[Ss]incerely,?\s+) ?)"
        rf"{_NAME} {_NAME}",
        0.6,
        cased=True,
        needs="is |i am|i'm|name|behalf|regards|sincerely",
    ),
    _rule("PERSON", rf"(?<=\b[Nn]ame: {{1,6}}){_NAME}(?: {_NAME}){{0,2}}", 0.7, cased=True),
    _rule(
        "PERSON",
        rf"(?<=\b(?i:passenger|customer|guest|traveller|traveler|recipient|payee|holder|name|attn|patient|client|employee"
        rf"|caller|buyer|seller|contact|beneficiary|tenant|student|sender|driver)s?(?i: name)?"
        rf"(?:[*_:]{{1,4}} ?|: ?\d{{1,2}} ?\())[*_]{{0,2}}{_NAME}(?: {_NAME}){{1,2}}",
        0.7,
        cased=True,
    ),
    _rule("PERSON", rf"\b{_NAME} [A-Z]\.? {_NAME}", 0.6, cased=True),
    _rule(
        "PERSON",
        rf"\b(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof)\b\.? {_NAME}(?: {_NAME}){{0,2}}",
        0.7,
        cased=True,
        needs="mr|ms|miss|mx|dr|prof",
    ),
    _rule("ACCOUNT", rf"(?<={_ID_CUE})(?=[a-z\-]*\d)[a-z0-9][a-z0-9\-]{{3,}}[a-z0-9]\b", 0.6, digits=True, needs=_IDS),
    _rule("ACCOUNT", rf"(?<=(?i:{_ID_CUE}))[A-Z]{{6}}\b", 0.5, cased=True, needs=_IDS),
    _rule("ACCOUNT", r"(?<=#)[A-Z]{0,2}\d{6,12}\b", 0.6, digits=True, needs="#"),
    _rule("ACCOUNT", r"\b1Z[0-9A-Z]{16}\b", 0.8, cased=True, digits=True),
    _rule("ACCOUNT", r"\b(?:credit_card|gift_card|certificate|paypal|payment)_\d{4,}\b", 0.8, digits=True),
    _rule("USERNAME", r"\b[a-z]{2,}_[a-z]{2,}_\d{3,6}\b", 0.8, cased=True, digits=True),
    _rule("USERNAME", r"(?<![\w@./])@[a-z][a-z0-9_]{2,30}\b(?![./(])", 0.5),
    _rule("USERNAME", r"(?<=\b(?:for|user|by) )[a-z][\w\-]*[._][\w.\-]*\w(?= from\b)", 0.7, needs=" from"),
    _rule("USERNAME", r"(?<=[/\\](?:home|users|profile)[/\\]{1,2})[\w.\-]{2,}", 0.7, needs="home|users|profile"),
    _rule("USERNAME", r"(?<![\w.#])[a-z][\w.]{1,30}#\d{4}\b", 0.7, digits=True),
    _rule("USERNAME", r"(?<![\w@./])@[a-z]\w*(?:\.\w+)+\b(?![./(])", 0.5),
    _rule(
        "USERNAME",
        r"(?<=\b(?:github|gitlab|twitter|instagram|facebook|tiktok|x|t)\.(?:com|me)/@?|\blinkedin\.com/in/)[\w.\-]{2,}",
        0.6,
        needs=".com/|.me/",
    ),
    _rule(
        "USERNAME",
        r"(?<=\b(?:username|user name|login|user id)(?: is |: ?|=))[a-z][\w.\-]*[\d_.][\w.\-]*",
        0.6,
        needs="user|login",
    ),
    _rule(
        "GOV_ID",
        r"(?<=\b(?:passport|(?:driving )?licen[cs]e|national id|driver'?s licen[cs]e|tax id|national insurance)"
        r"(?: (?:no|number|num|id))?[.:#]? (?:is )?)(?=[a-z\- ]*\d)[a-z0-9][a-z0-9\-]{5,13}\b",
        0.7,
        digits=True,
        needs="passport|licen|national|tax id",
    ),
    _rule("GOV_ID", r"(?<=\bnino[:# ]{1,3}(?:is )?)[a-z]{2} ?(?:\d{2} ?){3}[a-d]\b", 0.8, digits=True, needs="nino"),
    _rule(
        "ACCOUNT",
        r"(?<=\b(?:frequent flyer|loyalty|membership|member|customer|account)(?: (?:number|no|id))?[.:#]? (?:is )?)"
        r"[a-z]{2} ?\d{3,4} ?\d{3,4}\b",
        0.7,
        digits=True,
        needs="flyer|loyalty|member|customer|account",
    ),
    _rule("GOV_ID", r"\b[A-CEGHJ-PR-TW-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]\b", 0.7, cased=True, digits=True),
    _rule("SECRET", r"\bsk-[\w\-]{16,}", 0.95, cased=True),
    _rule("SECRET", r"\b(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}\b", 0.95, cased=True),
    _rule(
        "SECRET",
        r"\b(?:gh[opusr]|glpat|npm|pypi|hf|xox[abprs]|[rsp]k_(?:live|test)|SG)[_\-.][A-Za-z0-9_\-.]{16,}",
        0.95,
        cased=True,
        valid=_hash_free,
    ),
    _rule("SECRET", r"\bgithub_pat_\w{22,}", 0.95, cased=True),
    _rule("SECRET", r"\bAIza[\w\-]{35}", 0.95, cased=True),
    _rule("SECRET", r"\beyJ[\w\-]{8,}\.[\w\-]{4,}\.[\w\-]{4,}", 0.99, cased=True),
    _rule("SECRET", r"(?<=\bbearer )(?=[^\s]*\d)[\w.~+/\-]{8,}=*", 0.9, needs="bearer"),
    _rule("SECRET", r"(?<=\bbasic )(?=[^\s]*[\d=+/])[A-Za-z0-9+/]{8,}=*", 0.9, needs="basic"),
    _rule("SECRET", r"(?<=(?:^|\s)(?:-u|--user)[ =]?[\"']?)[^\s:\"']{1,64}:[^\s\"']{1,128}", 0.9, needs="-u"),
    _rule(
        "SECRET",
        r"(?<=\b(?:mysql|mysqldump|mariadb|sqlcmd)\b[^\n]{0,80} -[pP])[^\s-][^\s]{3,}",
        0.8,
        needs="mysql|mariadb|sqlcmd",
    ),
    _rule("SECRET", r"(?<=://)[^\s/:@]{0,64}:[^\s/@]{1,128}(?=@)", 0.95, needs="://"),
    _rule("SECRET", r"(?<=^(?:set-)?cookie: ?)\S[^\n]{7,}", 0.8, needs="cookie:"),
    _rule("SECRET", r"(?<=[?&](?:token|sig|signature|code|auth|key|sid|api_key)=)[^&\s\"']{6,}", 0.9, needs="?|&"),
    _rule(
        "SECRET",
        r"(?<=(?<![a-z0-9])"
        r"(?:api[_\- ]?key|secret|token|passwd|password|passphrase|pwd|access[_-]?key|client[_-]?secret)"
        r"(?:\"|')?\s?=\s?[\"']?)[^\s\"',;}{]{4,}",
        0.8,
        needs=_KEYS,
    ),
    _rule(
        "SECRET",
        r"(?<=\b(?:api[_\- ]?key|secret|token|passwd|password|passphrase|pwd|access[_-]?key|client[_-]?secret)"
        r"(?: is | was |: ?))(?=[^\s]*[\d!$%^&*_])[^\s\"',;}{<]{5,}",
        0.8,
        needs=_KEYS,
    ),
    _rule(
        "SECRET",
        r"(?<=\b(?:otp|pin|cvv|cvc|security code|one[- ]time code|door code|passcode)(?: is | was |: ?| ))\d{3,8}\b",
        0.7,
        digits=True,
        needs="otp|pin|cv|code",
    ),
)
"""Every rule that looks at the text alone."""
