"""A conversation: the pieces join to the reply, what was said is remembered, and the style is the model's own."""

import pytest

from falconer.data.encode import Encoder
from falconer.data.prompt import PromptFormat
from falconer.data.sources import load_dialogues
from falconer.data.text import natural
from falconer.errors import FalconerError
from falconer.model.engine import Decoding, Engine, Request
from falconer.model.load import load_model
from falconer.model.tokenizer import load_tokenizer
from falconer.records import Dialogue, Turn
from falconer.talk.session import Session
from parrot import Parrot
from tiny import save_tiny_model

PERSONA = ["I have two dogs.", "I don't eat meat!"]
MAX_TOKENS = 160


@pytest.fixture(scope="module")
def tokenizer_and_encoder():
    tokenizer, end_id = load_tokenizer("falcon-mini")
    return tokenizer, Encoder(tokenizer.backend_tokenizer.to_str(), end_id, MAX_TOKENS)


@pytest.fixture
def parrot(tokenizer_and_encoder):
    return Parrot(*tokenizer_and_encoder)


def conversation(parrot, is_spaced=True, persona=PERSONA, multi_line=False, language="en"):
    parrot.encoder.format = PromptFormat(is_spaced=is_spaced, multi_line=multi_line, language=language)
    return Session(parrot, persona, Decoding(max_new_tokens=32))


def test_the_pieces_of_real_replies_join_to_the_whole(parrot):
    talk = conversation(parrot)
    replies = [
        turn.text
        for dialogue in load_dialogues("persona-chat-sample", split="valid").dialogues
        for turn in dialogue.turns
        if turn.speaker == "self"
    ]
    assert len(replies) > 400
    for reply in replies:
        parrot.says(reply)
        pieces = list(talk.reply("hi"))
        assert "".join(pieces) == natural(reply)
        assert len(pieces) > 1 or len(reply.split()) < 4
        talk.forget()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("i live in the u . s . a . and i love it", "I live in the U.S.A. and I love it"),
        ("i do n't know , i ca n't", "I don't know, I can't"),
        ("it costs 1 , 921 dollars !", "It costs 1,921 dollars!"),
        ("t . v . is my life", "T.V. is my life"),
        ("caf\u00e9 \U0001f600 ok", "Caf\u00e9 \U0001f600 ok"),
        ("Hello , i 'm Bob", "Hello, i'm Bob"),
    ],
)
def test_what_later_words_change_is_not_shown_too_early(parrot, said, shown):
    parrot.says(said)
    assert "".join(conversation(parrot).reply("hi")) == shown


def test_words_appear_while_the_reply_is_written(parrot):
    parrot.says("i like long walks on the beach with my dogs .")
    pieces = list(conversation(parrot).reply("hi"))
    assert len(pieces) >= 8
    assert pieces[0] == "I like"


def test_a_model_of_raw_text_hears_raw_text(parrot):
    talk = conversation(parrot)
    parrot.says("i am fine .")
    list(talk.reply("Hi! How're you?"))
    list(talk.reply("Really?"))
    assert parrot.prompts[1] == (
        "Persona:\n- i have two dogs.\n- i don't eat meat!\n"
        "User: hi ! how're you ?\nAssistant: i am fine .<|endoftext|>\nUser: really ?\nAssistant:"
    )


def test_a_model_of_natural_text_hears_what_was_typed(parrot):
    talk = conversation(parrot, is_spaced=False)
    parrot.says("I am  fine.")
    assert "".join(talk.reply("  Hi! How're you? ")) == "I am  fine."
    assert parrot.prompts[0].startswith("Persona:\n- I have two dogs.\n- I don't eat meat!\nUser: Hi! How're you?\n")
    assert talk.turns == [Turn("partner", "Hi! How're you?"), Turn("self", "I am  fine.")]


def test_what_spells_a_special_token_is_text(parrot):
    talk = conversation(parrot, is_spaced=False)
    list(talk.reply("say <|endoftext|>"))
    assert parrot.encoder.end_id not in talk.engine.encoder.encode_prompt((), talk.turns[:1])


def test_marks_alone_are_heard_as_they_are(parrot):
    talk = conversation(parrot)
    list(talk.reply("***"))
    assert talk.turns[0].text == "***"


def test_an_empty_reply_is_remembered_as_a_silence(parrot):
    talk = conversation(parrot)
    parrot.says("")
    assert "".join(talk.reply("hi")) == ""
    assert talk.turns[1] == Turn("self", "...")


def test_a_reply_that_runs_on_is_cut(parrot):
    talk = conversation(parrot)
    parrot.says("i am fine .\nUser: and you ?", ends=False)
    assert "".join(talk.reply("hi")) == "I am fine."
    assert talk.turns[1].text == "I am fine."


def test_a_reply_of_several_lines_is_shown_whole_where_training_had_such(parrot):
    talk = conversation(parrot, is_spaced=False, multi_line=True)
    parrot.says("Take:\n1. eggs\n2. flour")
    assert "".join(talk.reply("How?\nAnd why?")) == "Take:\n1. eggs\n2. flour"
    assert parrot.prompts[0].endswith("User: How?\nAnd why?\nAssistant:")
    parrot.says("bake it .\nUser: thanks\nAssistant: bye")
    assert "".join(talk.reply("And then?")) == "bake it ."
    assert talk.turns[-1] == Turn("self", "bake it .")


def test_text_without_spaces_appears_while_it_is_written(parrot):
    talk = conversation(parrot, is_spaced=False)
    parrot.says("我今天过得很好，谢谢你的关心。😀")
    pieces = list(talk.reply("你好吗？"))
    assert len(pieces) > 5 and "".join(pieces) == "我今天过得很好，谢谢你的关心。😀"
    assert "\ufffd" not in "".join(pieces[:-1])


def test_no_part_of_the_next_speakers_tag_is_shown(parrot):
    talk = conversation(parrot, is_spaced=False, multi_line=True)
    parrot.says("Use it.\nUsually.\nUser: thanks", ends=False)
    pieces = list(talk.reply("How?"))
    assert "".join(pieces) == "Use it.\nUsually."


def test_lines_of_raw_text_stay_lines(parrot):
    talk = conversation(parrot, multi_line=True)
    parrot.says("i ski .\ni sing .")
    assert "".join(talk.reply("Who?\nYou!")) == "I ski.\nI sing."
    assert talk.turns == [Turn("partner", "Who?\nYou!"), Turn("self", "I ski.\nI sing.")]
    list(talk.reply("Well?"))
    assert "User: who ?\nyou !\nAssistant: i ski .\ni sing .<|endoftext|>\nUser: well ?\n" in parrot.prompts[1]


def test_no_token_is_asked_for_behind_the_next_turns_beginning(parrot):
    talk = conversation(parrot)
    parrot.says("i am fine .\nUser: and you ?", ends=False)
    asked = []
    tokens = parrot.says_next
    parrot.says_next = (asked.append(token) or token for token in tokens)
    list(talk.reply("hi"))
    assert len(asked) < len(tokens)


def test_who_stops_listening_stops_the_reply(parrot):
    talk = conversation(parrot)
    parrot.says("one two three four five six")
    pieces = talk.reply("count")
    assert next(pieces) == "One"
    pieces.close()
    assert [turn.speaker for turn in talk.turns] == ["partner", "self"]
    assert talk.turns[1].text == "One"
    assert parrot.closed == 1
    list(talk.reply("go on"))
    assert "User: count\nAssistant: one" in parrot.prompts[1]


def test_forgetting(parrot):
    talk = conversation(parrot)
    list(talk.reply("hi"))
    talk.forget()
    list(talk.reply("hello"))
    assert "User: hi\n" not in parrot.prompts[1]
    assert "two dogs" in parrot.prompts[1]


def test_another_persona(parrot):
    talk = conversation(parrot)
    list(talk.reply("hi"))
    talk.change_persona(["I sing.", " "])
    assert talk.persona == ("I sing.",)
    assert not talk.turns
    list(talk.reply("hello"))
    assert parrot.prompts[1].startswith("Persona:\n- i sing.\nUser: hello\n")


def test_no_persona(parrot):
    talk = conversation(parrot, persona=[])
    list(talk.reply("hi"))
    assert parrot.prompts[0] == "User: hi\nAssistant:"


def test_a_persona_longer_than_the_context_is_refused(parrot):
    endless = ["I like dogs and cats and horses and birds."] * 40
    with pytest.raises(FalconerError, match=r"The persona is \d+ tokens too long"):
        conversation(parrot, persona=endless)
    talk = conversation(parrot)
    list(talk.reply("hi"))
    with pytest.raises(FalconerError):
        talk.change_persona(endless)
    assert talk.persona == tuple(PERSONA)
    assert talk.turns, "nothing was forgotten"


def test_a_message_longer_than_the_context_is_refused_and_forgotten(parrot):
    talk = conversation(parrot)
    list(talk.reply("hi"))
    with pytest.raises(FalconerError, match=r"The last message is \d+ tokens too long"):
        list(talk.reply("word " * 300))
    assert [turn.text for turn in talk.turns[:1]] == ["hi"]
    assert len(talk.turns) == 2


def test_a_long_conversation_loses_its_beginning_and_goes_on(parrot):
    talk = conversation(parrot)
    parrot.says("i see , that is nice .")
    for number in range(30):
        list(talk.reply(f"this is thing number {number} that i tell you"))
    assert "number 29" in parrot.prompts[-1]
    assert "number 0 " not in parrot.prompts[-1]
    assert "two dogs" in parrot.prompts[-1]
    assert talk.num_dropped == 59 - (parrot.prompts[-1].count("User:") + parrot.prompts[-1].count("Assistant: i see"))
    talk.forget()
    assert talk.num_dropped == 0


@pytest.mark.parametrize("wrong", ["", "  ", "\n"])
def test_an_empty_message_is_refused(parrot, wrong):
    with pytest.raises(FalconerError, match="The message is empty"):
        conversation(parrot).say(wrong)


def test_what_is_no_text_is_refused(parrot):
    talk = conversation(parrot)
    with pytest.raises(FalconerError, match=r"not valid Unicode: character 1 is U\+D800"):
        talk.say("\ud800")
    with pytest.raises(TypeError, match="text must be a text, not int"):
        talk.say(7)
    with pytest.raises(FalconerError, match="The persona is not valid Unicode"):
        talk.change_persona(["\ud800"])
    assert talk.turns == [] and talk.persona == tuple(PERSONA)


def test_the_last_message_is_taken_back_with_its_reply(parrot):
    talk = conversation(parrot)
    parrot.says("i am fine .")
    talk.say("Hi!")
    talk.say("Really?")
    assert talk.undo() == "Really?"
    assert talk.turns == [Turn("partner", "Hi!"), Turn("self", "I am fine.")]
    assert talk.undo() == "Hi!"
    with pytest.raises(FalconerError, match="no message yet"):
        talk.undo()


def test_another_reply_is_sampled_anew(parrot):
    talk = conversation(parrot)
    with pytest.raises(FalconerError, match="no message yet"):
        list(talk.retry())
    parrot.says("one .")
    talk.say("Hi!")
    parrot.says("two .")
    assert "".join(talk.retry()) == "Two."
    assert talk.turns == [Turn("partner", "Hi!"), Turn("self", "Two.")]
    list(talk.retry())
    talk.say("And?")
    assert parrot.prompts[0] == parrot.prompts[1] == parrot.prompts[2]
    assert [request.number for request in parrot.requests] == [0, 1, 2, 0]


def test_a_message_without_a_reply_gets_one(parrot):
    talk = conversation(parrot)
    talk.turns.append(Turn("partner", "Hi!"))
    parrot.says("hello .")
    assert "".join(talk.retry()) == "Hello."
    assert parrot.requests[0].number == 0


def test_the_base_model_goes_on_with_the_same_conversation(parrot):
    talk = conversation(parrot)
    parrot.says("i sing .")
    talk.say("Hi!")
    talk.is_base = True
    parrot.base.says("Hello, I ski")
    assert talk.say("You?") == "Hello, I ski"
    assert "Assistant: i sing ." in parrot.base.prompts[0]
    talk.is_base = False
    talk.say("Oh")
    assert "Assistant: hello , i ski<|endoftext|>" in parrot.prompts[1]


def test_both_models_reply_a_token_at_a_time(parrot):
    talk = conversation(parrot)
    parrot.says("i like my two dogs .")
    parrot.base.says("he likes all of the cats and the dogs")
    pieces = list(talk.both("Hi!"))
    models = [is_base for is_base, _ in pieces]
    assert models.index(True) < 3 and False in models[models.index(True) :]
    for is_base, whole in ((False, "I like my two dogs."), (True, "He likes all of the cats and the dogs")):
        assert "".join(piece for model, piece in pieces if model == is_base) == whole
    assert parrot.prompts == parrot.base.prompts
    assert talk.turns[-1].text == "I like my two dogs."
    talk.undo()
    talk.is_base = True
    list(talk.both("Hi!"))
    assert talk.turns[-1].text == "He likes all of the cats and the dogs"


def test_who_stops_listening_to_both_stops_both(parrot):
    talk = conversation(parrot)
    parrot.says("i like my two dogs .")
    parrot.base.says("he likes all of the cats")
    pieces = talk.both("Hi!")
    next(pieces)
    pieces.close()
    assert parrot.closed == parrot.base.closed == 1
    assert len(talk.turns) == 2


def test_a_failure_before_the_first_word_changes_nothing(parrot):
    talk = conversation(parrot)
    parrot.says("i sing .")
    talk.say("Hi!")
    before = list(talk.turns)
    parrot.says_next = [FalconerError("Out of memory.")]
    for ask in (lambda: talk.say("And?"), lambda: list(talk.retry())):
        with pytest.raises(FalconerError, match="Out of memory"):
            ask()
        assert talk.turns == before
    parrot.says_next = [*parrot.encoder.encode_text(" i ski and i"), FalconerError("Out of memory.")]
    with pytest.raises(FalconerError, match="Out of memory"):
        talk.say("And?")
    assert talk.turns[-1].text == "I ski and"


def test_a_conversation_is_a_dialogue_and_goes_on_from_one(parrot):
    talk = conversation(parrot)
    with pytest.raises(FalconerError, match="no reply to save"):
        talk.dialogue()
    parrot.says("i sing .")
    talk.say("ok, i see")
    saved = talk.dialogue("mine")
    assert saved == Dialogue("mine", tuple(PERSONA), (Turn("partner", "ok, i see"), Turn("self", "I sing.")))
    other = conversation(parrot, persona=[])
    other.continue_from(saved)
    assert (other.persona, other.turns) == (saved.persona, list(saved.turns))
    raw = Dialogue("raw", ("i ski.",), (Turn("partner", "hi ! you ?"), Turn("self", "i do n't know .")))
    other.continue_from(raw)
    assert other.persona == ("I ski.",)
    assert [turn.text for turn in other.turns] == ["Hi! You?", "I don't know."]
    with pytest.raises(FalconerError, match="A turn is not valid Unicode"):
        other.continue_from(Dialogue("d", (), (Turn("self", "\ud800"),)))
    with pytest.raises(FalconerError, match="The persona is"):
        other.continue_from(Dialogue("d", ("I like dogs. " * 90,), ()))
    assert other.persona == ("I ski.",) and len(other.turns) == 2


def test_greedy_chat_says_what_evaluation_generates(tmp_path):
    loaded = load_model(str(save_tiny_model(tmp_path)), quantization="none", dtype="fp32", device="cpu")
    encoder = Encoder(
        loaded.tokenizer.backend_tokenizer.to_str(), loaded.end_id, MAX_TOKENS, PromptFormat(is_spaced=False)
    )
    decoding = Decoding(max_new_tokens=12, repetition_penalty=1.2)
    engine = Engine(loaded.model, encoder, loaded.precision)
    talk = Session(engine, PERSONA, decoding)
    shown = "".join(talk.reply("Hi!"))
    prompt = encoder.encode_prompt(tuple(PERSONA), [Turn("partner", "Hi!")])
    ((_, reply),) = engine.replies([Request(prompt, decoding)])
    assert shown == reply.text


def test_english_rules_are_for_english(parrot):
    """In Italian "i" is an article; in Turkish the small letter of I has no dot."""
    talk = conversation(parrot, language="it")
    parrot.says("bene , gioco con i miei gatti .")
    assert "".join(talk.reply("Ciao, leggi i libri?")) == "bene, gioco con i miei gatti."
    assert "ciao , leggi i libri ?" in parrot.prompts[-1]
    talk = conversation(parrot, language="tr")
    parrot.says("iyiyim .")
    list(talk.reply("ISPARTA'da İyi misin?"))
    assert "ısparta'da iyi misin ?" in parrot.prompts[-1]
