"""Presidio's own recognisers, and what a text has to have before one is asked about it: the finds are the same."""

from __future__ import annotations

_NEEDS = {
    "CreditCardRecognizer": (13, ""), "CryptoRecognizer": (1, ""), "DateRecognizer": (1, "/-."),
    "EmailRecognizer": (0, "@"), "IbanRecognizer": (2, ""), "IpRecognizer": (0, ".:"),
    "MacAddressRecognizer": (0, ":-."), "MedicalLicenseRecognizer": (7, ""), "NhsRecognizer": (10, ""),
    "PhoneRecognizer": (2, ""),
    "UrlRecognizer": (0, "."), "UsBankRecognizer": (8, ""), "UsItinRecognizer": (9, ""),
    "UsPassportRecognizer": (8, ""), "UsSsnRecognizer": (9, ""), "UuidRecognizer": (0, "-"),
}  # fmt: skip
"""How many digits a find has at least, and the characters of which it has one."""


def digits_in(text: str) -> int:
    """How many digits a text has, of any script."""
    return sum(map(str.isdigit, text))


def may_find(name: str, text: str, digits: int) -> bool:
    """Whether the recogniser of a name may find anything in a text with so many digits.

    >>> may_find("UsSsnRecognizer", "call me at 5", 1), may_find("SpacyRecognizer", "", 0)
    (False, True)
    """
    least, marks = _NEEDS.get(name, (0, ""))
    return digits >= least and (not marks or any(mark in text for mark in marks))
