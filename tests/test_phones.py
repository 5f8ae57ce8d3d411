"""Phones: every usual human form becomes E.164, one person has one identity, and nothing else is taken for a phone."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.phones import identity, to_e164, wire

MEXICO = {
    "+52 55 0010 0001": "+525500100001",
    "+525500100001": "+525500100001",
    "525500100001": "+525500100001",
    "5500100001": "+525500100001",
    "55 0010 0001": "+525500100001",
    "(55) 0010-0001": "+525500100001",
    "55.0010.0001": "+525500100001",
    "55–0010–0001": "+525500100001",
    "55\u00a00010\u00a00001": "+525500100001",
    "  +52 (55) 0010 0001 ": "+525500100001",
    "0052 55 0010 0001": "+525500100001",
    "01 55 0010 0001": "+525500100001",
    "044 55 0010 0001": "+525500100001",
    "045 55 0010 0001": "+525500100001",
    "tel:+525500100001": "+525500100001",
    "whatsapp:+5215500100001": "+5215500100001",
    "+52 1 55 0010 0001": "+5215500100001",
    "5215500100001": "+5215500100001",
    "0052 1 55 0010 0001": "+5215500100001",
    "998 001 0004": "+529980010004",
    # Ten digits that begin with 52 or 521 are a Mexican number like any other.
    "5215500100": "+525215500100",
    "5255001000": "+525255001000",
}
ELSEWHERE = {
    ("+1 (415) 555-0132", "MX"): "+14155550132",
    ("001 415 555 0132", "MX"): "+14155550132",
    ("(415) 555-0132", "US"): "+14155550132",
    ("1-415-555-0132", "US"): "+14155550132",
    ("14155550132", "US"): "+14155550132",
    ("+34 612 34 56 78", "MX"): "+34612345678",
    ("612 34 56 78", "ES"): "+34612345678",
    ("+54 9 11 2345-6789", "MX"): "+5491123456789",
    ("+57 300 1234567", "MX"): "+573001234567",
    ("300 123 4567", "CO"): "+573001234567",
    ("+44 7911 123456", "MX"): "+447911123456",
    ("+39 06 698 2561", "MX"): "+39066982561",
    ("+52 55 0010 0001", "US"): "+525500100001",
    ("525500100001", "US"): "+525500100001",
}
# A local number of the configured country is never another country's, however long it is.
LOCAL_AND_LONG = {
    ("(11) 91234-5678", "BR"): "+5511912345678",
    ("11912345678", "BR"): "+5511912345678",
    ("138 1234 5678", "CN"): "+8613812345678",
    ("07911 123456", "GB"): "+447911123456",
    ("0151 23456789", "DE"): "+4915123456789",
}
NOT_PHONES = [
    "",
    " ",
    "+",
    "12",
    "Juan Pérez",
    "55 0010 000A",
    "550010000",
    "+52 55 0010 00011",
    "+99955001000012",
    "1234567890123456",
    "5500100001 ext. 12",
    "5500100001/5500100002",
    "5500100001, 5500100002",
    "5500100001?x=1",
    "5500100001#",
    "5500100001\n5500100002",
    "+-/.()",
]


@pytest.mark.parametrize(("written", "e164"), MEXICO.items())
def test_mexican_forms(written: str, e164: str) -> None:
    assert to_e164(written) == e164


@pytest.mark.parametrize(("written", "e164"), ELSEWHERE.items())
def test_forms_of_other_countries(written: tuple[str, str], e164: str) -> None:
    assert to_e164(*written) == e164


@pytest.mark.parametrize(("written", "e164"), LOCAL_AND_LONG.items())
def test_a_local_number_stays_in_its_country(written: tuple[str, str], e164: str) -> None:
    assert to_e164(*written) == e164


@pytest.mark.parametrize("written", NOT_PHONES)
def test_what_is_no_phone_is_refused_in_words(written: str) -> None:
    with pytest.raises(ValueError, match="phone number"):
        to_e164(written)


@pytest.mark.parametrize("written", ["521234567890", "+521234567890", "+52 123 456 7890"])
def test_the_examples_of_the_api_page(written: str) -> None:
    """Neither is a valid number by the numbering plan; both must work."""
    assert to_e164(written) == "+521234567890"
    assert wire(to_e164(written)) == "521234567890"


@pytest.mark.parametrize("digits", ["٥٥٠٠١٠٠٠٠١", "５５００１００００１", "५५००१००००१"])
@pytest.mark.parametrize("prefix", ["", "+52", "+521", "521", "+52 1 "])
def test_digits_of_other_scripts_never_reach_the_wire(prefix: str, digits: str) -> None:
    try:
        found = to_e164(prefix + digits)
    except ValueError:
        return
    assert re.fullmatch(r"\+[0-9]{8,15}", found), found


def test_old_and_new_mexican_form_are_one_person() -> None:
    assert identity("+5215500100001") == identity("+525500100001") == "+525500100001"
    assert identity("5215500100001") == "+525500100001"
    assert to_e164("+52 1 55 0010 0001") == "+5215500100001", "the form that was given is kept"


@pytest.mark.parametrize("digits", ["521234567890", "521550010000", "525215500100"])
def test_twelve_digits_are_never_folded(digits: str) -> None:
    assert identity("+" + digits) == identity(digits) == "+" + digits


@pytest.mark.parametrize("e164", ["+5491123456789", "+14155550132", "+5115512345678", "+52155001000012"])
def test_other_countries_and_lengths_are_never_folded(e164: str) -> None:
    assert identity(e164) == e164


@pytest.mark.parametrize(("e164", "digits"), [("+525500100001", "525500100001"), ("525500100001", "525500100001")])
def test_the_wire_has_digits_only(e164: str, digits: str) -> None:
    assert wire(e164) == digits


REGIONS = st.sampled_from(["MX", "US", "ES", "CO", "AR", "BR", "GB", "IT"])
LOOKS_LIKE_A_PHONE = st.text(alphabet="0123456789+()-. /\u00a0\u2013", max_size=24) | st.from_regex(
    r"(\+|00)?(52|521|1|34|44|39|0|01|044)?[ .-]?[0-9]{6,12}", fullmatch=True
)


@settings(max_examples=400, deadline=None, database=None)
@given(LOOKS_LIKE_A_PHONE | st.text(max_size=30), REGIONS)
@example("+1+52+55", "MX")
def test_reading_a_phone_twice_is_reading_it_once(written: str, region: str) -> None:
    try:
        once = to_e164(written, region)
    except ValueError:
        return
    assert re.fullmatch(r"\+[1-9][0-9]{7,14}", once), once
    assert to_e164(once, region) == once
    # E.164 names its country, so the region no longer matters.
    assert to_e164(once, "MX") == once
    assert to_e164(wire(once), "MX") == once or len(wire(once)) < 11


@settings(max_examples=300, deadline=None, database=None)
@given(st.from_regex(r"\+?(52|521|1)?[0-9]{8,12}", fullmatch=True))
def test_identity_is_idempotent_and_only_ever_drops_that_one_digit(phone: str) -> None:
    once = identity(phone)
    assert identity(once) == once
    digits = phone.lstrip("+")
    assert once in ("+" + digits, "+52" + digits[3:])
    assert once == "+" + digits or (len(digits) == 13 and digits.startswith("521"))
