"""Phones: E.164 out of any usual human form, and the identity that makes +52 1 and +52 one Mexican number."""

import re
import unicodedata

_LABEL = re.compile(r"^(?:tel|cel|whatsapp)\.?:?\s*(?=[+(\d])", re.IGNORECASE)
_CHAT_LINK = re.compile(r"^(?:https?://)?(?:www\.)?wa\.me/\+?(?=\d+/?$)", re.IGNORECASE)
_MEXICAN_PREFIXES = re.compile(r"^(?:044|045|01)([0-9]{10})$")
"""Dialling prefixes that Mexico dropped in 2019 and that address books still hold."""


def to_e164(text: str, region: str = "MX") -> str:
    """`text` as +digits. `region` (ISO 3166 alpha-2) is the country of numbers written without their own.

    Raises ValueError, with words for whoever typed it. The form that was given is kept: +521 stays +521.
    """
    # Contact apps wrap what they copy in marks of direction, which nobody sees.
    written = "".join(character for character in text if unicodedata.category(character) != "Cf").strip()
    written = _CHAT_LINK.sub("+", _LABEL.sub("", written, count=1), count=1)
    if re.fullmatch(r"\+?\d{7,}\.0", written):
        # A spreadsheet's number, whose zero would pass for one more digit.
        written = written.removesuffix(".0")
    if not re.fullmatch(r"\+?[\d()\s.\-\u2010-\u2015\u00a0/]+", written):
        raise ValueError(f"{text!r} is not a phone number; give country code and digits, like +525500100001")
    digits = "".join(str(unicodedata.digit(character)) for character in written if character.isdigit())
    international = written.startswith("+")
    if not international and digits.startswith("00"):
        international, digits = True, digits[2:]
    if region == "MX" and not international and (old := _MEXICAN_PREFIXES.match(digits)):
        digits = old[1]
    # A number that its own country dials as it stands comes before one that lacks its plus.
    forms = ["+" + digits] if international else [digits, "+" + digits]
    for form in forms:
        if (found := _possible(form, region)) is not None:
            return found
    raise ValueError(f"{text!r} has too few or too many digits for a phone number with its country code")


def _possible(digits: str, region: str) -> str | None:
    import phonenumbers  # 30 ms, and most commands never see a phone

    if identity(digits) != "+" + digits.lstrip("+"):
        return "+" + digits.lstrip("+")
    try:
        number = phonenumbers.parse(digits, region)
    except phonenumbers.NumberParseException:
        return None
    found = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    # Numbers that begin inside a town, or with a prefix that was stripped, don't survive a second reading.
    reason = phonenumbers.is_possible_number_with_reason(number)
    good = reason == phonenumbers.ValidationResult.IS_POSSIBLE and re.fullmatch(r"\+[1-9][0-9]{7,14}", found)
    return found if good and (found == digits or _possible(found, region) == found) else None


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
