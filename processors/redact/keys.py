"""Names of fields that hold personal data: JSON keys and attribute names, in any spelling.

``cardLast4``, ``card_last_4`` and ``CARD-LAST-4`` are one key. A key counts by itself or by its last words, so that
``billing.customerEmail`` is an e-mail address.
"""

from __future__ import annotations

import re
from functools import lru_cache

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_BY_TYPE = {
    "PERSON": "firstname lastname fullname givenname surname familyname middlename maidenname customername "
    "passengername contactname cardholder cardholdername accountholder beneficiary displayname realname",
    "EMAIL_ADDRESS": "email emailaddress mail mailaddress emails emailaddresses",
    "PHONE_NUMBER": "phone phonenumber mobile mobilenumber cell cellphone tel telephone fax msisdn phone1 "
    "phone2 phones phonenumbers",
    "ADDRESS": "address addresses address1 address2 addressline1 addressline2 line1 line2 streetaddress street "
    "zip zipcode postcode postalcode",
    "DATE_OF_BIRTH": "dob birthday birthdate dateofbirth",
    "GOV_ID": "passport passportnumber passportno ssn socialsecurity socialsecuritynumber nationalid taxid license "
    "licensenumber driverlicense driverslicense nino",
    "SECRET": "password passwd passphrase secret token apikey accesstoken refreshtoken authtoken idtoken bearertoken "
    "clientsecret authorization cookie setcookie otp pin cvv cvc privatekey accesskey secretkey sessioncookie doorcode",
    "ACCOUNT": "account accountid accountnumber accountno card cardnumber cardno cardlast4 last4 lastfour "
    "cardlastfour iban paymentid paymentmethodid orderid ordernumber reservationid reservationnumber bookingid "
    "policynumber policyno policyid membershipnumber memberid customerid employeeid loyaltynumber frequentflyer",
    "USERNAME": "userid username login loginname screenname handle nickname user uid",
    "LOCATION": "city town hometown birthplace placeofbirth latitude longitude lat lng",
}  # fmt: skip
_TYPES = {key: entity for entity, keys in _BY_TYPE.items() for key in keys.split()}
_NAMEY = re.compile(
    r"[^\W\d_][\w'\u2019.\-]*(?: [^\W\d_][\w'\u2019.\-]*)+|[A-Z\u00c0-\u00de][a-z\u00df-\u00ff'\u2019\-]+"
)
_ANYONE = {"customer", "passenger", "contact", "recipient", "author", "owner", "assignee"}
_PEOPLE = _ANYONE | {"user", "client", "patient", "employee", "guest", "person", "member", "holder", "sender", "caller"}
_VAGUE = {
    "card", "account", "address", "addresses", "token", "license", "pin", "mail", "mobile", "cell", "handle", "secret",
    "cookie", "last4", "user", "uid", "latitude", "longitude", "lat", "lng",
}  # fmt: skip
_CODE = re.compile(r"\S+")


@lru_cache(4096)
def words_of(key: str) -> tuple[str, ...]:
    """The words of a key, in small letters."""
    return tuple(word.lower() for word in _WORDS.findall(key))


def type_of(key: str, value: str) -> str:
    """The type of personal data that a value under a key is; '' for none that the key tells.

    >>> type_of("cardLast4", "1907"), type_of("name", "get_weather"), type_of("name", "Mia Li")
    ('ACCOUNT', '', 'PERSON')
    """
    words = words_of(key)
    if not words or len(value.strip()) < 2:
        return ""
    if _says_who(words) and _NAMEY.fullmatch(value.strip()):
        return "PERSON"
    for size in (3, 2, 1):
        name = "".join(words[-size:])
        found = _TYPES.get(name, "")
        if found and _fits(name, value):
            return found
    return ""


def fills(entity: str, value: str) -> bool:
    """Whether the rest of a line like ``city: Galway`` is a value of a type, and not a sentence about it.

    >>> fills("SECRET", "hunter22"), fills("SECRET", "has to be changed"), fills("PERSON", "Aoife")
    (True, False, True)
    """
    words, digit = value.split(), any(map(str.isdigit, value))
    if entity in {"PERSON", "LOCATION"}:
        return len(words) <= 4 and value[0].isupper()
    if entity == "EMAIL_ADDRESS":
        return "@" in value
    return digit and len(words) <= (1 if entity in {"SECRET", "USERNAME"} else 8)


def _says_who(words: tuple[str, ...]) -> bool:
    """``name`` alone or of a person, but not of a service, a tool or a model."""
    return words[-1] in _ANYONE or (words[-1] == "name" and (len(words) == 1 or words[-2] in _PEOPLE))


def _fits(name: str, value: str) -> bool:
    """Words that mean more than one thing need a value that looks the part."""
    if name not in _VAGUE:
        return value.lower() not in {"true", "false", "none", "null", "yes", "no"}
    if name in {"token", "secret", "cookie"}:
        return len(value) >= 8 and _CODE.fullmatch(value) is not None
    if name in {"user", "uid"}:
        return _mixed(value)
    return any(c.isdigit() for c in value)


def _mixed(value: str) -> bool:
    """One word with letters and digits, as names of accounts are."""
    return _CODE.fullmatch(value) is not None and any(map(str.isdigit, value)) and any(map(str.isalpha, value))
