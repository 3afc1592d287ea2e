"""Numbers that states, banks, makers and insurers give to people and their things, of many countries.

Some have a shape that hardly anything else has (an Italian codice fiscale) or a check character; the others count after
a word that names them (``passport no.``). Scores are as in ``processors.redact.rules``.
"""

from __future__ import annotations

from collections.abc import Callable

import regex

from processors.redact.rules import Rule

_DNI = "TRWAGMYFPDXBNJZSQVHLCKE"
_VIN_VALUES = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", map(int, "12345678123457923456789"), strict=True))
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_MONTH_DAY = r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_CUES = (
    "passport|passeport|reisepass|pasaporte|passaporto|driver|driving|licen|führerschein|national i|identity"
    "|identification|id card|ausweis|tax|steuer|aadhaar|aadhar|voter|cpf|cnpj|curp|rfc|dni|nie|nif|cif|fiscal|nhs|tfn"
    "|medicare|bsn|pesel|personnummer|cpr|ahv|avs|emirates|nric|fin|hkid|cedula|cédula|rut|cuil|cuit|insee|ssn|sin|nino"
    "|ni n|social|pan|itin|ein|tin|visa|dl|mrn|medical|health|insurance|member|subscriber|plate|registration|vin|uscis"
    "|green card"
)
_NAMED = (
    r"(?:passport|passeport|reisepass|pasaporte|passaporto|(?:driver|driving)(?:['\u2019]?s)? licen[cs]e"
    r"|licen[cs]e plate|führerschein|national (?:id|identity|insurance)(?: card)?|identity(?: card)?|identification"
    r"|id card|personalausweis|ausweis|tax (?:id|identification|payer)|steuer-?(?:id|nummer)|aadhaa?r|voter id|cpf|cnpj"
    r"|curp|rfc|dni|nie|nif|cif|codice fiscale|nhs|tfn|medicare|bsn|pesel|personnummer|cpr|ahv|avs|emirates id|nric|fin"
    r"|hkid|c[eé]dula|rut|cui[lt]|insee|ssn|sin|nino|ni|social (?:security|insurance)|pan|itin|ein|tin|visa|dl|mrn"
    r"|medical record|health (?:card|insurance)|insurance(?: member)?|(?:member|subscriber) id|(?:number )?plate"
    r"|registration|vin|uscis|green card)"
)
_LINK = r"(?:[ -]?(?:number|no|num|nr|card|id|mrn))?[.:#]{0,2}(?: is| was|=)?[ :#]{1,2}"
_VALUE = r"[A-Z0-9]{1,14}(?:[ ./\-](?=[A-Z]{0,3}\d|[A-Z]{1,3}\b)[A-Z0-9]{1,9}){0,6}"
_WALLET = "wallet|bitcoin|btc|eth|ltc|xrp|doge|solana|monero|xmr|usdt|tron"


def _enough(text: str) -> bool:
    """Whether it is long enough for a number of somebody's, and no year, price or count."""
    digits, all_of = sum(map(str.isdigit, text)), sum(map(str.isalnum, text))
    return (digits >= 4 and 6 <= all_of <= 24) or (digits >= 2 and digits < all_of and 5 <= all_of <= 24)


def _dni(text: str) -> bool:
    number = text.replace("-", "").replace("X", "0", 1).replace("Y", "1", 1).replace("Z", "2", 1)
    number = number[:8] if text[0].isalpha() else text.replace("-", "")[:8]
    return text[-1] == _DNI[int(number) % 23]


def vin(text: str) -> bool:
    """Whether a vehicle's number has its check digit (ISO 3779, as in North America).

    >>> vin("1HGCM82633A004352"), vin("1HGCM82643A004352")
    (True, False)
    """
    values = [int(c) if c.isdigit() else _VIN_VALUES[c] for c in text]
    rest = sum(value * weight for value, weight in zip(values, _VIN_WEIGHTS, strict=True)) % 11
    return text[8] == ("X" if rest == 10 else str(rest))


def _mixed(text: str) -> bool:
    return any(map(str.isdigit, text)) and any(map(str.isalpha, text))


def _rule(
    entity: str,
    pattern: str,
    score: float,
    *,
    needs: str = "",
    valid: Callable[[str], bool] | None = None,
    digits: bool = True,
) -> Rule:
    return Rule(
        entity, regex.compile(pattern, regex.MULTILINE), score, digits, tuple(filter(None, needs.split("|"))), valid
    )


PAPERS: tuple[Rule, ...] = (
    _rule("GOV_ID", rf"\b(?i:{_NAMED}{_LINK})\K{_VALUE}(?![\w])", 0.75, needs=_CUES, valid=_enough),
    _rule("GOV_ID", r"\b[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b", 0.9),  # Italy
    _rule("GOV_ID", r"\b[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]\b", 0.7),  # India
    _rule("GOV_ID", r"\b[A-Z]{3}[A-Z9]{2}\d{6}[A-Z9]{2}\d[A-Z]{2}\b", 0.85),  # British drivers
    _rule("GOV_ID", r"\b\d{3}\.\d{3}\.\d{3}-\d{2}\b|\b\d{2}\.\d{3}\.\d{3}/\d{4}-\d{2}\b", 0.9),  # Brazil
    _rule("GOV_ID", r"\b(?:\d{8}|[XYZ]\d{7})-?[A-Z]\b", 0.8, valid=_dni),  # Spain
    _rule("GOV_ID", r"\b[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d\b", 0.9),  # Mexico
    _rule("GOV_ID", r"\b\d{1,2}\.\d{3}\.\d{3}-[\dkK]\b", 0.8),  # Chile
    _rule("GOV_ID", r"\b756\.\d{4}\.\d{4}\.\d{2}\b", 0.9),  # Switzerland
    _rule("GOV_ID", r"\b\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}\b", 0.9),  # Belgium
    _rule("GOV_ID", rf"\b(?:\d\d)?\d\d{_MONTH_DAY}[-+]\d{{4}}\b", 0.6),  # Sweden, Denmark
    _rule("GOV_ID", rf"\b\d\d{_MONTH_DAY}[-+A]\d{{3}}[A-Z]\b", 0.8),  # Finland
    _rule("GOV_ID", rf"\b\d\d{_MONTH_DAY}-[1-8]\d{{6}}\b", 0.8),  # Korea
    _rule("GOV_ID", rf"\b[1-9]\d{{5}}(?:19|20)\d\d{_MONTH_DAY}\d{{3}}[\dX]\b", 0.9),  # China
    _rule("GOV_ID", r"\b[12] \d\d (?:0[1-9]|1[0-2]) \d[\dAB] \d{3} \d{3}(?: \d\d)?\b", 0.8),  # France
    _rule("GOV_ID", r"\b[STFGM]\d{7}[A-Z]\b|\b[A-Z]\d{6}\([0-9A]\)", 0.6),  # Singapore, Hong Kong
    _rule("ACCOUNT", r"\b[A-HJ-NPR-Z0-9]{17}\b", 0.8, valid=lambda text: _mixed(text) and vin(text)),
    _rule("ACCOUNT", r"(?i:\b(?:sort code|sortcode)[ :#]{1,2}(?:is )?)\K\d\d[- ]?\d\d[- ]?\d\d\b", 0.8, needs="sort"),
    _rule(
        "ACCOUNT",
        r"(?i:\b(?:swift|bic)(?:[ /]?(?:swift|bic|code))*[ :#]{1,2}(?:is )?)\K[A-Z]{6}[A-Z0-9]{2}(?:[A-Z0-9]{3})?\b",
        0.8,
        needs="swift|bic",
        digits=False,
    ),
    _rule("ACCOUNT", r"(?i:\b(?:ifsc|bsb)(?: code)?[ :#]{1,2}(?:is )?)\K[A-Z0-9\-]{6,11}\b", 0.8, needs="ifsc|bsb"),
    _rule("CREDIT_CARD", r"(?:[*xX\u2022#]{2,}[ \-]?){1,4}\K\d{4}\b", 0.6, needs="**|xx|\u2022\u2022|##"),
    _rule("MAC_ADDRESS", r"(?<![\w:.\-])[0-9A-Fa-f]{2}([:\-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:\-])", 0.9),
    _rule("MAC_ADDRESS", r"(?<![\w.])(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}(?![\w.])", 0.7),
    _rule("CRYPTO", r"\b0x[0-9A-Fa-f]{40}\b", 0.95, needs="0x"),
    _rule(
        "CRYPTO",
        rf"(?i:\b(?:{_WALLET})\b[^\n]{{0,20}}?[ :=])\K[1-9A-HJ-NP-Za-km-z]{{26,106}}\b",
        0.8,
        needs=_WALLET,
        valid=_mixed,
    ),
    _rule(
        "LOCATION",
        r"(?i:\b(?:gps|lat(?:itude)?|coord\w*|location|geo\w*)\b[^\n\d\-]{0,20})\K"
        r"-?\d{1,2}\.\d{3,}, ?-?\d{1,3}\.\d{3,}",
        0.8,
        needs="gps|lat|coord|location|geo",
    ),
)
"""Every rule for such numbers."""
