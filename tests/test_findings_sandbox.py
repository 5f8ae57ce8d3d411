"""The embedded sandbox, its built-in rules and phones, as people who tried them wrote."""

import pytest

from agent.phones import to_e164


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("\u202d+52 55 0010 0001\u202c", "+525500100001"),
        ("Cel. 55 0010 0001", "+525500100001"),
        ("cel: 55 0010 0001", "+525500100001"),
        ("wa.me/5215500100001", "+5215500100001"),
        ("https://wa.me/525500100001", "+525500100001"),
        ("5500100001.0", "+525500100001"),
        ("525500100001.0", "+525500100001"),
    ],
)
def test_phones_as_apps_and_spreadsheets_write_them(written: str, meant: str) -> None:
    assert to_e164(written) == meant


@pytest.mark.parametrize(
    "written",
    ["55 0010 0001 ext. 5", "Cel. 55 0010 0001 ext. 5", "wa.me/5500100001?text=hola", "5500100001.00"],
)
def test_what_is_more_than_a_phone_stays_refused(written: str) -> None:
    with pytest.raises(ValueError, match="phone number"):
        to_e164(written)
