"""Stage directions, headings and profiles are not said by anybody; everything else is kept to the letter."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus_files import load, said
from falconer.data.formats.stage import introduced_names, is_direction, is_profile, without_directions

NAMES = frozenset({"Ana", "Ben"})

DIRECTIONS = [
    "30 minutes later:", "20 minutes later", "A few days later...", "Later that night", "later", "The next day:",
    "the following morning", "That evening:", "Next weekend", "After hiking", "Shortly after the film:", "Meanwhile",
    "7pm", "At 7:30 p.m.", "At the gym", "At the checkout line:", "Back at user 2's car:", "On the way to the harbour",
    "In the kitchen:", "Inside the house", "** At the bar **", "Ana walks over to Ben's house. They have some tea.",
    "User 1 and User 2 go for a walk.", "Both users leave.", "Ana and Ben meet at the park.", "(The next day)",
    "Two weeks later, at the park:", "The next day, in the office:", "On Saturday morning:", "At home", "At Mount Fuji",
    "Time passes.", "Ten minutes pass...", "The two friends go for a swim.", "The end.", "Scene 2:",
    "[laughs]", "*They leave*", "* * *", "---", "Conversation:", "**Generated Conversation:**",
]  # fmt: skip
REPLIES = [
    "Ingredients:", "Instructions:", "1 pound of flour", "1/4 teaspoon of salt", "2. Cook for 10 minutes.",
    "* 5 pounds of potatoes", "What do you like to do?", "I am a retired gym teacher.", "Here is my list:",
    "Ana is my sister, and I love her.", "They are very friendly.",
    "At last we met", "At least three", "At the end I was tired", "Later I will tell you",
]  # fmt: skip


@pytest.mark.parametrize("line", DIRECTIONS)
def test_directions(line: str) -> None:
    assert is_direction(line, before_label=True, names=NAMES)


@pytest.mark.parametrize("line", REPLIES)
def test_what_a_reply_may_hold(line: str) -> None:
    assert not is_direction(line, before_label=True, names=NAMES)


def test_a_reply_that_goes_on_is_not_cut_by_a_time_or_place() -> None:
    assert not is_direction("At the gym", before_label=False, names=NAMES)


@pytest.mark.parametrize(
    "line",
    [
        "User 1 Profiles: {I like films.",
        "User 2's Profile:",
        "Profiles of user 1:",
        "** User 1 Personas: **",
        "Persona:",
        "**User 2 Profile**",
    ],
)
def test_profiles(line: str) -> None:
    assert is_profile(line)


@pytest.mark.parametrize("line", ["User 1: I have a profile: it is blue", "my profile: x", "Profiles are dull."])
def test_no_profiles(line: str) -> None:
    assert not is_profile(line)


DIRECTED = {
    "[laughs] You are funny.": "You are funny.",
    "You are funny. (smiles warmly)": "You are funny.",
    "(15 minutes later)": "",
    "[user 2 plays guitar]": "",
    "Look! [hands over the cake] Eat.": "Look! Eat.",
}


@pytest.mark.parametrize(("text", "kept"), DIRECTED.items())
def test_directions_within_a_turn_are_taken_out_and_counted(text: str, kept: str) -> None:
    assert without_directions(text) == (kept, 1)
    assert without_directions(f"{text} *nods*") == (kept, 2)


@pytest.mark.parametrize(
    "text",
    [
        "I'm [user 1 name].",
        "I'm [name] from [city].",
        "I like [user 2's hobbies].",
        "It was *really* good (I mean it).",
        "I have two (maybe three) dogs.",
        "It runs (looks good, too).",
    ],
)
def test_what_is_part_of_a_sentence_stays(text: str) -> None:
    assert without_directions(text) == (text, 0)


@given(st.text(st.characters(codec="utf-8", exclude_characters="[(*")))
def test_text_without_brackets_is_verbatim(text: str) -> None:
    assert without_directions(text) == (text.strip(), 0)


def test_introduced_names() -> None:
    assert introduced_names(("User 1: I'm Ana.", "User 2: Hi Ana, my name is Ben. I'm glad.")) == {"Ana", "Ben"}


def test_none_of_it_reaches_a_reply(tmp_path: Path) -> None:
    lines = [
        "User 1 Profiles:", "I drive a tram.", "Conversation:",
        "User 1: Hi, I'm Ana.", "User 2: [smiles] I'm Ben. Here is the recipe:", "", "Ingredients:", "1 onion", "",
        "30 minutes later:", "", "User 1: That was good!", "Ana walks home.", "User 2: Bye.", "", "At the tram stop",
        "User 1: Oh, it is you.", "User 2: (laughs)", "User 1: Bye again.", "User 2 Profiles: {I cook.", "I sing.}",
    ]  # fmt: skip
    cell = "\n".join(lines)
    content = f'user 1 personas,user 2 personas,Best Generated Conversation\n"I drive a tram.",I cook.,"{cell}"\n'
    loaded = load(tmp_path, content)
    assert said(loaded.dialogues[0]) == [
        ("self", "Hi, I'm Ana."),
        ("partner", "I'm Ben. Here is the recipe:\nIngredients:\n1 onion"),
        ("self", "That was good!"),
        ("partner", "Bye."),
        ("self", "Oh, it is you. Bye again."),
    ]
    assert loaded.quirks["stage direction dropped"] == 5
    assert loaded.quirks["line of a speaker's profile dropped"] == 5
    assert loaded.quirks["line without a label kept"] == 2


@pytest.mark.parametrize(
    "line",
    [
        "**Conversation ends**", "Half an hour later:", "30 mins later:", "a decade later:", "Conversation 2:",
        "A few days later, User 1 and User 2 meet again.", "Persona 1: i like cats.", "another week later",
    ],
)  # fmt: skip
def test_more_that_nobody_says(tmp_path: Path, line: str) -> None:
    assert replies(tmp_path, f"User 1: hi\nUser 2: hello .\n{line}\nUser 1: bye") == ["hi", "hello .", "bye"]


def test_how_something_is_said_stands_in_the_label(tmp_path: Path) -> None:
    """Without it the line would be the other speaker's."""
    spoken = "User 1: hi\nUser 2 (smiling): hello .\n**User 1 [to himself]:** bye\nUser 2: 30 mins later: fine"
    assert replies(tmp_path, spoken) == ["hi", "hello .", "bye", "30 mins later: fine"]


def replies(tmp_path: Path, conversation: str) -> list[str]:
    row = {"user 1 personas": "", "user 2 personas": "", "Best Generated Conversation": conversation}
    return [text for _, text in said(load(tmp_path, [row]).dialogues[0])]
