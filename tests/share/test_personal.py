"""E-mail addresses and telephone numbers are found in natural and in spaced writing, and little else is."""

import pytest

from falconer.share.personal import masked, personal


def found(text):
    return [(one.kind, one.text) for one in personal([("here", text)])]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("write to ann.lee+x@mail.example.org, please", "ann.lee+x@mail.example.org"),
        ("my email is ann . lee @ example . com .", "ann.lee@example.com"),
        ("ann @ example . co . uk", "ann@example.co.uk"),
        ("ANN@EXAMPLE.COM", "ANN@EXAMPLE.COM"),
        ("小王的邮箱是 wang@example.cn 。", "wang@example.cn"),
    ],
)
def test_addresses(text, address):
    assert ("e-mail address", address) in found(text)
    assert len(found(text)) == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("call (555) 123-4567 now", "(555) 123-4567"),
        ("555.123.4567", "555.123.4567"),
        ("ring +49 30 1234567 8", "+49 30 1234567 8"),
        ("+1-555-123-4567!", "+1-555-123-4567"),
        ("0049 170 1234567", "0049 170 1234567"),
        ("my phone number is 555 1234", "555 1234"),
        ("text me at 07700 900123", "07700 900123"),
    ],
)
def test_numbers(text, number):
    assert found(text) == [("telephone number", number)]


@pytest.mark.parametrize(
    "text",
    [
        "i'm @ home . bye !", "see you @ 5 . ok ?", "i was born in 1984 , my sister in 1987 .", 
        "it costs 1,000,000 dollars", "call me in 5 minutes",
        "from 2010 - 2015 i lived there", "my lucky numbers are 3 7 21 42", "3.14159265358979", "10 20 30",
        "the bible , john 3 : 16 . psalm 119 : 105", "192.168.100.200", "i phone my mum at 10 and at 11", "a@b",
    ],
)  # fmt: skip
def test_what_people_say_otherwise(text):
    assert found(text) == []


def test_the_embedded_dialogues_look_like_nobody():
    from falconer.data.sources import load_dialogues

    texts = [turn.text for dialogue in load_dialogues("persona-chat-sample").dialogues for turn in dialogue.turns]
    assert len(texts) > 30_000
    assert list(personal(("here", text) for text in texts)) == []


def test_a_finding_is_shown_so_that_only_its_owner_knows_it():
    assert masked("ann.lee@example.org") == "an***************rg"
    assert masked("x@y.z") == "x@*.z" and masked("abc") == "ab*bc"
