"""A chat's body: what is not allowed is refused with the field's name and what is."""

import json

import pytest

from falconer.model.engine import Decoding
from falconer.records import Turn
from falconer.talk.server.chat_request import chat_fields, read_chat
from falconer.talk.server.errors import ApiError
from falconer.talk.server.limits import Limits
from served import CHAT, CHATS

SYSTEM, USER = {"role": "system", "content": "I ski."}, {"role": "user", "content": "Hi!"}
SELF = {"role": "assistant", "content": "Hello."}
PICTURE = {"type": "image_url", "image_url": {"url": "data:,"}}

# What is changed in a good body, the field that the error names, and what its message says.
BAD = [
    ({"model": "gpt-4"}, "model", "allowed: tuned, falcon-mini"),
    ({"model": 3}, "model", "allowed: tuned, falcon-mini"),
    ({"model": None}, "model", "is null"),
    ({"messages": []}, "messages", "allowed: a list of 1 to 1,024 messages"),
    ({"messages": "Hi!"}, "messages", "allowed: a list"),
    ({"messages": [USER, SELF] * 600}, "messages", "has 1,200 messages"),
    ({"messages": ["Hi!"]}, "messages[0]", "an object with 'role' and 'content'"),
    ({"messages": [{"content": "Hi!"}]}, "messages[0].role", "is missing"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "is null"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "system, developer, user, assistant"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "allowed: system"),
    ({"messages": [{**USER, "mood": "sad"}]}, "messages[0].mood", "There is no field"),
    ({"messages": [{**USER, "content": [PICTURE]}]}, "messages[0].content[0]", "text parts alone"),
    ({"messages": [{**USER, "content": []}]}, "messages[0].content", "list of text parts"),
    ({"messages": [{**USER, "content": 3}]}, "messages[0].content", "allowed: a text"),
    ({"messages": [{**USER, "content": [{"type": "text"}]}]}, "messages[0].content[0]", "which is a text"),
    ({"messages": [SYSTEM]}, "messages[0].role", "the last one is the user's"),
    ({"messages": [USER, SELF]}, "messages[1].role", "is the last message and of role 'assistant'"),
    ({"messages": [USER, USER]}, "messages[1].role", "is a second 'user' message in a row"),
    ({"messages": [USER, SELF, SELF, USER]}, "messages[2].role", "is a second 'assistant' message in a row"),
    ({"messages": [USER, SYSTEM, USER]}, "messages[1].role", "allowed only at the beginning"),
    ({"messages": [SYSTEM, SYSTEM, USER]}, "messages[1].role", "allowed only at the beginning"),
    ({"n": 9}, "n", "an integer from 1 to 8"),
    ({"n": 0}, "n", "an integer from 1 to 8"),
    ({"n": 1.5}, "n", "an integer"),
    ({"n": True}, "n", "an integer"),
    ({"n": "2"}, "n", "an integer"),
    ({"max_tokens": -1}, "max_tokens", "an integer from 1 to 256"),
    ({"max_tokens": 257}, "max_tokens", "an integer from 1 to 256"),
    ({"max_completion_tokens": 10**300}, "max_completion_tokens", "an integer from 1 to 256"),
    ({"temperature": -0.1}, "temperature", "a number from 0 to 2"),
    ({"temperature": "0.7"}, "temperature", "a number from 0 to 2"),
    ({"temperature": [0.7]}, "temperature", "a number from 0 to 2"),
    ({"top_p": 1.01}, "top_p", "a number from 0 to 1"),
    ({"top_k": -1}, "top_k", "an integer from 0"),
    ({"repetition_penalty": 0}, "repetition_penalty", "a number above 0, at most 10"),
    ({"min_p": 1.5}, "min_p", "a number from 0 to 1"),
    ({"no_repeat_ngram_size": 17}, "no_repeat_ngram_size", "an integer from 0 to 16"),
    ({"no_repeat_ngram_scope": "all"}, "no_repeat_ngram_scope", "allowed: reply, own, prompt"),
    ({"repetition_penalty_scope": 1}, "repetition_penalty_scope", "allowed: reply, own, prompt"),
    ({"num_beams": 4}, "num_beams", "sent while they are generated"),
    ({"use_beam_search": True}, "use_beam_search", "allowed: false or null"),
    ({"seed": 2**53 + 1}, "seed", "an integer from"),
    ({"presence_penalty": 0.5}, "presence_penalty", "allowed: 0 or null"),
    ({"frequency_penalty": False}, "frequency_penalty", "allowed: 0 or null"),
    ({"logit_bias": {"11": 3}}, "logit_bias", "allowed: {} or null"),
    ({"stop": ["a"] * 5}, "stop", "at most 4"),
    ({"stop": [""]}, "stop", "1 to 200 characters"),
    ({"stop": 3}, "stop", "a text, or a list"),
    ({"stream": "yes"}, "stream", "true or false"),
    ({"stream_options": True}, "stream_options", "an object"),
    ({"stream_options": {"usage": True}}, "stream_options.usage", "Did you mean 'include_usage'?"),
    ({"logprobs": 5}, "logprobs", "true or false"),
    ({"top_logprobs": 21}, "top_logprobs", "an integer from 0 to 20"),
    ({"tools": [{"type": "function"}]}, "tools", "there are no tools"),
    ({"response_format": {"type": "json_object"}}, "response_format", "replies are text"),
    ({"temprature": 1}, "temprature", "Did you mean 'temperature'?"),
    ({"zzz": 1}, "zzz", "Allowed: "),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param", "says"), BAD, ids=[json.dumps(change)[:50] for change, _, _ in BAD])
def test_what_is_not_allowed_is_refused(server, change, param, says):
    got = server.chat(**change)
    assert got.status == (404 if change.get("model") == "gpt-4" else 400)
    assert got.error["param"] == param and says in got.error["message"]
    assert len(got.body) < 1200, "a message does not repeat a body"


def read(**changes):
    fields = chat_fields(("tuned",), Limits(), Decoding())
    return read_chat({**CHAT, **changes}, fields, Decoding(max_new_tokens=40))


def test_messages_become_persona_and_turns():
    chat = read(messages=[{**SYSTEM, "content": "I ski.\n\n  I sing.  "}, USER, SELF, USER])
    assert chat.persona == ("I ski.", "I sing.")
    assert chat.turns == (Turn("partner", "Hi!"), Turn("self", "Hello."), Turn("partner", "Hi!"))
    greeted = read(
        messages=[SELF, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    )
    assert greeted.persona == () and greeted.turns[1].text == "a\nb"


def test_what_clients_send_back_and_along_is_accepted():
    returned = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}
    chat = read(
        messages=[USER, {**SELF, **returned, "name": "Bob"}, USER], user="u", metadata={"a": [1]}, store=True,
        response_format={"type": "text"}, tool_choice="none", presence_penalty=0.0, logit_bias={}, temperature=None,
        n=None, stop=None, service_tier="auto",
    )  # fmt: skip
    assert len(chat.turns) == 3 and chat.asked.num_choices == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0), ({"top_logprobs": 3}, 3),
        ({"logprobs": True, "top_logprobs": 3}, 3), ({"logprobs": False, "top_logprobs": 3}, None),
    ],
)  # fmt: skip
def test_log_probabilities_that_are_asked_for(fields, expected):
    asked = read(**fields).asked
    assert asked.decoding.num_logprobs == expected and asked.has_logprobs == (expected is not None)


def test_a_name_that_is_almost_right_is_an_error_of_its_own():
    with pytest.raises(ApiError, match="Did you mean 'messages'"):
        read(message=[])


def test_nothing_of_it_disturbs_others(server):
    assert server.ask("POST", CHATS, CHAT).status == 200
