"""What other dialogues share with training, counted from hashes: as a comparison of the texts themselves would."""

import json
import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data.leakage import Contents, Leakage, contents, leakage, normalise, openings, sentence_set
from falconer.data.sources import load_dialogues
from falconer.records import Dialogue, Speaker, Turn


def make(index: int, persona: tuple[str, ...], partner: tuple[str, ...] = (), num_turns: int = 6) -> Dialogue:
    sides: list[Speaker] = ["partner", "self"]
    turns = tuple(Turn(sides[k % 2], f"dialogue {index} turn {k}") for k in range(num_turns))
    return Dialogue(f"{index}", persona, turns, partner)


def by_texts(train: list[Dialogue], other: list[Dialogue]) -> Leakage:
    """Compare the texts, without a hash."""

    def shown(dialogues: list[Dialogue], num_sides: int) -> list[set[object]]:
        personas = [p for d in dialogues for p in (d.persona, d.partner_persona)[:num_sides] if p]
        return [
            {sentence_set(persona) for persona in personas},
            {normalise(sentence) for persona in personas for sentence in persona},
            {normalise(d.turns[index].text) for d in dialogues for index in d.replies},
            {openings(d)[0] for d in dialogues},
        ]

    pairs = zip(shown(train, 2), shown(other, 1), strict=True)
    return Leakage(*(number for here, there in pairs for number in (len(there), len(there & here))))


texts = st.sampled_from(["I ski.", "i ski", "?", "!", "", "été", "是的。", "हाँ", "i cook .", "i|cook", "a\x1fb", "a b"])
dialogues = st.builds(
    lambda persona, partner, said: Dialogue("d", persona, tuple(Turn(s, t) for s, t in said), partner),
    st.lists(texts, max_size=3).map(tuple), st.lists(texts, max_size=2).map(tuple),
    st.lists(st.tuples(st.sampled_from(["self", "partner"]), texts), min_size=1, max_size=6),
)  # fmt: skip


@given(st.lists(dialogues, max_size=8), st.lists(dialogues, max_size=8))
def test_it_counts_what_the_texts_have_in_common(train: list[Dialogue], other: list[Dialogue]) -> None:
    assert leakage(train, other) == by_texts(train, other)
    kept = Contents.from_json(json.loads(json.dumps(contents(train).to_json())))
    assert kept == contents(train)
    assert kept.shared_with(other) == by_texts(train, other)


def test_it_counts_the_same_in_the_sample() -> None:
    train, test = (list(load_dialogues("persona-chat-sample", split=split).dialogues) for split in ("train", "test"))
    found = leakage(train, test)
    assert found == by_texts(train, test)
    assert (found.shared_persona_sentences, found.num_persona_sentences, found.shared_replies) == (25, 285, 13)
    assert str(found).endswith("25 of 285 distinct persona sentences, 13 of 1,580 distinct replies, 0 of 203 dialogues")


def test_training_shows_a_persona_on_either_side_and_in_any_spelling() -> None:
    shown = contents([make(0, ("I've a dog.",), ("i ski .",))])
    assert shown.shows("i ve a dog") and shown.shows("I ski!") and not shown.shows("I cook.")
    assert not contents([make(0, (), ("i ski .",))], both_sides=False).shows("i ski .")


def test_what_is_not_learned_is_no_reply_of_training() -> None:
    said = make(0, ())
    unlearned = Dialogue("0", (), tuple(Turn(t.speaker, t.text, is_learned=False) for t in said.turns))
    assert leakage([unlearned], [said]).shared_replies == 0


def test_what_the_partner_says_counts_where_it_is_learned() -> None:
    one = make(1, ("i ski .",), num_turns=5)  # the last turn is the partner's, and behind the last reply
    said = [turn.text for turn in one.turns]
    assert [contents([one]).has_reply(text) for text in said] == [False, True, False, True, False]
    both = contents([one], partner_too=True)
    assert [both.has_reply(text) for text in said] == [True, True, True, True, False]
    other = Dialogue("2", ("i sing .",), (Turn("partner", "hm ?"), Turn("self", said[2])))
    assert both.shared_with([other]).shared_replies == 1 and contents([one]).shared_with([other]).shared_replies == 0


def test_as_many_replies_as_convai2_has_stay_small() -> None:
    rng = random.Random(3)
    many = frozenset(rng.getrandbits(64) for _ in range(131_438))
    packed = Contents(frozenset(), frozenset(), many, frozenset()).to_json()
    assert len(json.dumps(packed)) < 1.5e6
    assert Contents.from_json(packed).replies == many


@pytest.mark.parametrize("damage", [{"replies": "?"}, {"replies": "AAAA"}, {"replies": None}])
def test_a_damaged_record_is_no_record(damage: dict[str, str]) -> None:
    packed = contents([make(0, ("i ski .",))]).to_json()
    with pytest.raises((KeyError, TypeError, ValueError)):
        Contents.from_json(packed | damage)
    with pytest.raises(KeyError):
        Contents.from_json({})


def test_normalise() -> None:
    assert normalise("I've  a dog!") == normalise("i ve a dog .") == "iveadog"
    assert normalise("?!") == "?!"


def test_leakage_counts() -> None:
    train = [make(0, ("i ski .", "i cook ."), ("i sing .",)), make(1, ("i run .",))]
    other = [
        make(0, ("I cook.", "I ski!")),
        Dialogue("9", ("i sing .", "i fly ."), (Turn("self", "Dialogue 1 turn 1"), Turn("self", "new"))),
        Dialogue("8", ("i sing",), (Turn("self", "new"),), ("i run .",)),
    ]
    assert leakage(train, other) == Leakage(
        num_persona_sets=3,
        shared_persona_sets=2,
        num_persona_sentences=4,
        shared_persona_sentences=3,
        num_replies=5,
        shared_replies=4,
        num_dialogues=3,
        shared_dialogues=1,
    )
    assert leakage(train, other).reply_share == 80
    assert leakage(train, []).persona_set_share == 0


def test_normalised_text_keeps_what_tells_words_apart_in_any_script() -> None:
    assert normalise("I've 2 dogs .") == normalise("i ve 2 dogs") == "ive2dogs"
    assert normalise("मुझे की पसंद है।") != normalise("मुझे का पसंद है।")
    assert normalise("Caf\u00e9 !") == normalise("cafe\u0301")
    assert normalise("한국어") == normalise(unicodedata.normalize("NFD", "한국어"))
    assert normalise("ฉันมี") != normalise("ฉันมา")


def test_a_reply_is_known_whatever_its_writing() -> None:
    found = contents([make(1, ())])
    assert found.has_reply("Dialogue 1, turn 1!") and not found.has_reply("dialogue 1 turn 0")
