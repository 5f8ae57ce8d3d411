"""Phones: E.164 out of any usual human form, and the identity that makes +52 1 and +52 one Mexican number."""

import re

_MEXICAN_PREFIXES = re.compile(r"^(?:044|045|01)(\d{10})$")
"""Dialling prefixes that Mexico dropped in 2019 and that address books still hold."""


def to_e164(text: str, region: str = "MX") -> str:
    """`text` as +digits. `region` (ISO 3166 alpha-2) is the country of numbers written without their own.

    Raises ValueError, with words for whoever typed it. The form that was given is kept: +521 stays +521.
    """
    import phonenumbers  # 30 ms, and most commands never see a phone

    written = re.sub(r"^(?:tel|whatsapp):", "", text.strip(), flags=re.IGNORECASE)
    if not re.fullmatch(r"[\d+()\s.\-\u2010-\u2015\u00a0/]+", written):
        raise ValueError(f"{text!r} is not a phone number; give country code and digits, like +525500100001")
    digits = re.sub(r"\D", "", written)
    if region == "MX" and "+" not in written and (old := _MEXICAN_PREFIXES.match(digits)):
        written = digits = old[1]
    if digits.startswith("00") and "+" not in written:
        written = digits = digits[2:]
    if len(digits) >= 11 and "+" not in written:
        written = "+" + digits
    if "+" in written and identity(digits) != "+" + digits:
        return "+" + digits
    try:
        number = phonenumbers.parse(written, region)
    except phonenumbers.NumberParseException:
        raise ValueError(f"{text!r} is not a phone number; give country code and digits, like +525500100001") from None
    if not phonenumbers.is_possible_number(number) or not 8 <= len(digits) <= 15:
        raise ValueError(f"{text!r} has too few or too many digits for a phone number with its country code")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def identity(e164: str) -> str:
    """One string for one person: +521 and ten digits is the same Mexican number as +52 and those ten.

    Only 13 digits are folded. Twelve digits that begin with 521 are +52 and ten digits already.
    """
    digits = e164.lstrip("+")
    if len(digits) == 13 and digits.startswith("521"):
        return "+52" + digits[3:]
    return "+" + digits


def wire(e164: str) -> str:
    """Country code and digits, no symbols: how a phone travels in a path."""
    return e164.lstrip("+")
