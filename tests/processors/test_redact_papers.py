"""Papers, things and places of many countries: found in agents' texts, and nothing like them in texts of machines."""

from __future__ import annotations

import pytest

from processors.redact.detect import Detector, Query
from processors.redact.documents import may_name
from processors.redact.settings import RedactSettings
from schemas.errors import Invalid

FOUND = [
    ("My passport number is X8271635", "X8271635"),
    ("passport no. C01X00T47, expires 2029", "C01X00T47"),
    ("driving licence MORGA753116SM9IJ", "MORGA753116SM9IJ"),
    ("it says MORGA753116SM9IJ on the card", "MORGA753116SM9IJ"),
    ("DL# F255-9215-0094", "F255-9215-0094"),
    ("NI number QQ 12 34 56 C", "QQ 12 34 56 C"),
    ("My Aadhaar is 2345 6789 0124", "2345 6789 0124"),
    ("PAN ABCPE1234F", "ABCPE1234F"),
    ("he typed 529.982.247-25 twice", "529.982.247-25"),
    ("12345678Z is what it says", "12345678Z"),
    ("RSSMRA85T10A562S", "RSSMRA85T10A562S"),
    ("NHS number 943 476 5919", "943 476 5919"),
    ("TFN 123 456 782", "123 456 782"),
    ("tax id 12-3456789", "12-3456789"),
    ("756.1234.5678.97 is her AHV", "756.1234.5678.97"),
    ("born 850730-00.33, no: 85.07.30-033.28", "85.07.30-033.28"),
    ("personnummer 811218-9876", "811218-9876"),
    ("11010519491231002X", "11010519491231002X"),
    ("license plate 7ABC123", "7ABC123"),
    ("VIN: 1HGCM82633A004352", "1HGCM82633A004352"),
    ("the car 1HGCM82633A004352 broke down", "1HGCM82633A004352"),
    ("medical record number MRN 00482913", "00482913"),
    ("sort code 20-00-00", "20-00-00"),
    ("SWIFT DEUTDEFF500", "DEUTDEFF500"),
    ("IFSC: HDFC0001234", "HDFC0001234"),
    ("charged to card **** 4471", "4471"),
    ("device mac 00:1A:2B:3C:4D:5E", "00:1A:2B:3C:4D:5E"),
    ("mac=001a.2b3c.4d5e", "001a.2b3c.4d5e"),
    ("0x742d35Cc6634C0532925a3b844Bc454e4438f44e", "0x742d35Cc6634C0532925a3b844Bc454e4438f44e"),
    ("my ltc wallet: LaMT348PWRnrqeeWArpwQPbuanpXDZGEUz", "LaMT348PWRnrqeeWArpwQPbuanpXDZGEUz"),
    ("gps 48.8583701,2.2944813", "48.8583701,2.2944813"),
    ("My address is Kaiserstraße 27, 60311 Frankfurt am Main", "60311 Frankfurt am Main"),
    ("Rua Augusta, 1508 - Consolação, São Paulo - SP, 01304-001", "São Paulo - SP, 01304-001"),
    ("ul. Marszałkowska 10/12, 00-590 Warszawa", "Marszałkowska 10/12, 00-590 Warszawa"),
    ("Keizersgracht 123, 1015 CJ Amsterdam", "1015 CJ Amsterdam"),
    ("〒150-0002 Tokyo, Shibuya-ku 2-21-1", "150-0002 Tokyo, Shibuya-ku 2-21-1"),
    ("Drottninggatan 71, 111 36 Stockholm", "111 36 Stockholm"),
    ("42/7 MG Road, Bengaluru 560001, Karnataka", "42/7 MG Road"),
    ("42/7 MG Road, Bengaluru 560001, Karnataka", "Bengaluru 560001"),
    ("88 Queen St, Melbourne VIC 3000", "VIC 3000"),
    ("PO Box 4471, Wellington 6140", "PO Box 4471, Wellington 6140"),
    ("the postal code is K1A 0B1", "K1A 0B1"),
    ("ZIP: 394 13", "394 13"),
    ('{"town": "Hove", "lat": "50.8352"}', "Hove"),
    ("INFO user=rkumar42 action=login", "rkumar42"),
    ("Thanks, Fatoumata", "Fatoumata"),
    ("passenger=Lars Mikkelsen;seat=12A", "Lars Mikkelsen"),
    ("I work for Thornbury & Sons", "Thornbury & Sons"),
    ("please ask Max Sizemore about the batch size", "Max Sizemore"),
    ("Deliver to Isolde Park 4, Kristiansund, Norway 65101", "Isolde Park 4"),
]
HARMLESS = [
    "On 2026-03-01 we shipped 1200 units.",
    "npm i typescript@5.4.2",
    "Section 12, 2024 edition, page 300",
    "uuid 550e8400-e29b-41d4-a716-446655440000 created",
    '{"score": 0.8765432109, "ts": 1767225600, "loss": [0.12345678, -0.98765432]}',
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "scores 0.48583701, 0.22944813 and 0.5",
    "gpt-4o-2024-08-06 was used on 12/05/2024",
    "the visa application takes 30 days",
    "registration is open until 2027",
    "price 1.234.567,89 and 10.000-12.000 units",
    '{"role": "user", "user": "find 2 cheap flights"}',
    "Thanks, everyone",
    "cell A1:B20 and row 1024 KB",
    "the tax rate is 19 and insurance costs 120",
    "12345678A is a part of the machine",
    "JM1BL1SF5A1134560 is no number of a car",
    "Accuracy: 0.93 on the held-out set",
    '{"Accuracy": 0.93, "Size": 12}',
    "| Accuracy | Size |",
    "Size: Large",
    "Batch Size = 32",
    "Max Tokens: 1024",
    "Width: 20 cm",
    "SOC 2 Type II report",
    "HIPAA, SOC 2, ISO 27001",
    "Done, see SOC 2 controls CC6.1",
    "Please run npm install first",
    "npm ERR! code ENOENT",
]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(RedactSettings())


def covered(detector: Detector, text: str) -> list[bool]:
    [finds] = detector.find([Query(text, may_name(text))])
    assert not isinstance(finds, Invalid)
    return [any(find.start <= at < find.end for find in finds) for at in range(len(text))]


@pytest.mark.parametrize(("text", "value"), FOUND, ids=[value for _, value in FOUND])
def test_it_is_found_whole(detector: Detector, text: str, value: str) -> None:
    start, marks = text.index(value), covered(detector, text)
    assert [c for c, mark in zip(value, marks[start:], strict=False) if c.isalnum() and not mark] == []


@pytest.mark.parametrize("text", HARMLESS)
def test_texts_of_machines_stay(detector: Detector, text: str) -> None:
    assert not any(covered(detector, text))
