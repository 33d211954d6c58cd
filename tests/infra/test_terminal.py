"""What is said to the user can't steer the terminal."""

from hypothesis import given
from hypothesis import strategies as st

from infra.terminal import printable


def test_text_for_people_stays_and_what_steers_a_terminal_is_spelled_out():
    assert printable("naïve 写真 🐦, 100%") == "naïve 写真 🐦, 100%"
    assert printable("a\x1b[31m\nb\u202e\x9b") == r"a\x1b[31m\nb\u202e\x9b"


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_becomes_one_printable_line_that_can_be_encoded(text: str):
    shown = printable(text)
    assert shown.isprintable() and len(shown.splitlines()) <= 1
    shown.encode()
