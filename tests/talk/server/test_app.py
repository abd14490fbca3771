"""The routes, driven by the official client and by plain HTTP."""

import openai
import pytest

from served import CHAT, CHATS, SAYS, SHOWN, TEXTS


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


HI = [{"role": "user", "content": "Hi!"}]


def test_the_client_gets_a_chat_completion(client):
    answer = client.chat.completions.create(model="tuned", messages=HI)
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (SHOWN, "assistant", "stop")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens // 2 > 0
    assert answer.model == "tuned" and answer.dropped_turns == 0


def test_the_client_gets_a_stream_with_usage(client):
    chunks = list(
        client.chat.completions.create(
            model="tuned", messages=HI, stream=True, n=2, stream_options={"include_usage": True}
        )
    )
    for index in (0, 1):
        deltas = [chunk.choices[0] for chunk in chunks[:-1] if chunk.choices[0].index == index]
        assert deltas[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in deltas) == SHOWN
        assert [choice.finish_reason for choice in deltas] == [None] * (len(deltas) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 20
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_proxies_pass_a_stream_on_at_once(server):
    got = server.chat(stream=True)
    assert got.headers["x-accel-buffering"] == "no" and got.events[-1] == "[DONE]"
    assert "x-accel-buffering" not in server.chat().headers


def test_the_client_gets_logprobs(client):
    answer = client.chat.completions.create(model="tuned", messages=HI, logprobs=True, top_logprobs=2, max_tokens=3)
    tokens = answer.choices[0].logprobs.content
    assert [one.token for one in tokens] == [" i", " like", " long"]
    assert tokens[0].bytes == list(b" i") and len(tokens[0].top_logprobs) == 2
    assert tokens[0].top_logprobs[1].logprob == -1.5
    assert answer.choices[0].finish_reason == "length"
    stream = client.chat.completions.create(model="tuned", messages=HI, logprobs=True, max_tokens=3, stream=True)
    streamed = [one for chunk in stream if (found := chunk.choices[0].logprobs) for one in found.content]
    assert [one.token for one in streamed] == [" i", " like", " long"]


def test_the_client_gets_a_completion(client):
    answer = client.completions.create(model="falcon-mini", prompt="once upon", logprobs=1)
    assert answer.choices[0].text == f" {SAYS}" and answer.choices[0].finish_reason == "stop"
    assert "".join(answer.choices[0].logprobs.tokens) == f" {SAYS}"
    assert answer.choices[0].logprobs.text_offset[:2] == [0, 2]
    stream = client.completions.create(model="falcon-mini", prompt="once upon", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == f" {SAYS}"


def test_stop_texts_end_replies(client):
    answer = client.chat.completions.create(model="tuned", messages=HI, stop="beach")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("I like long walks on the ", "stop")
    answer = client.completions.create(model="tuned", prompt="a", stop=["beach", "walks on"])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (" i like long ", "stop")


def test_the_client_lists_and_describes_models(client):
    assert [model.id for model in client.models.list()] == ["tuned", "falcon-mini"]
    model = client.models.retrieve("tuned")
    assert (model.id, model.parent, model.max_model_len) == ("tuned", "falcon-mini", 512)
    with pytest.raises(openai.NotFoundError, match="tuned, falcon-mini"):
        client.models.retrieve("gpt-4")


def test_the_client_sees_errors(client):
    with pytest.raises(openai.NotFoundError, match="allowed: tuned, falcon-mini") as caught:
        client.chat.completions.create(model="gpt-4", messages=HI)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="from 0 to 2") as caught:
        client.chat.completions.create(model="tuned", messages=HI, temperature=-1)
    assert caught.value.param == "temperature"


def test_the_request_reaches_the_model_as_it_was_asked(server):
    got = server.chat(seed=7, n=3, temperature=0, top_p=0.5, top_k=9, repetition_penalty=1.3, max_completion_tokens=5)
    assert [choice["index"] for choice in got.json["choices"]] == [0, 1, 2]
    asked = server.parrot.asked[-3:]
    assert [one.request.number for one in asked] == [0, 1, 2] and {one.adapter for one in asked} == {"adapter0"}
    decoding = asked[0].request.decoding
    assert (decoding.seed, decoding.temperature, decoding.top_p, decoding.top_k) == (7, 0.0, 0.5, 9)
    assert (decoding.repetition_penalty, decoding.max_new_tokens, decoding.num_logprobs) == (1.3, 5, None)
    server.ask("POST", CHATS, {**CHAT, "model": "falcon-mini"})
    assert server.parrot.asked[-1].adapter is None


def test_a_conversation_is_the_prompt_of_training(server):
    messages = [
        {"role": "developer", "content": "I have two dogs.\n\n I'm a teacher. "},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
        {"role": "user", "content": [{"type": "text", "text": "How are you?"}]},
    ]
    assert server.chat(messages=messages).status == 200
    prompt = server.service.models["tuned"].writer.encoder.decode(server.parrot.asked[-1].request.prompt)
    expected = "Persona:\n- i have two dogs.\n- i'm a teacher.\nAssistant: hello .<|endoftext|>\nUser: how are you ?\n"
    assert prompt == f"{expected}Assistant:"


def test_what_is_dropped_is_said_and_what_is_too_long_refused(server):
    turns = [{"role": ("user", "assistant")[number % 2], "content": "i walk my dogs . " * 9} for number in range(21)]
    got = server.chat(messages=turns, max_tokens=100)
    dropped = got.json["dropped_turns"]
    assert dropped > 10 and got.headers["x-dropped-turns"] == str(dropped)
    assert server.chat(messages=turns, max_tokens=100, stream=True).events[0]["dropped_turns"] == dropped
    error = server.chat(messages=[{"role": "user", "content": "dog " * 600}]).error
    assert error["code"] == "context_length_exceeded" and "tokens too long" in error["message"]
    got = server.ask("POST", TEXTS, {"model": "tuned", "prompt": "dog " * 600, "max_tokens": 12})
    size = len(server.service.models["tuned"].writer.encoder.encode_start("dog " * 600))
    assert f"{size + 12 - 512:,} more than the context allows (512)" in got.error["message"]


def test_other_routes_and_methods(server):
    error = server.ask("GET", "/v1/chat")
    assert error.status == 404 and "/v1/chat/completions" in error.error["message"]
    got = server.ask("GET", CHATS)
    assert got.status == 405 and got.headers["allow"] == "POST" and got.error["code"] == "method_not_allowed"
    assert server.ask("OPTIONS", CHATS).status == 405
    assert server.ask("POST", f"{CHATS}/", CHAT).status == 404


def test_state_and_schema(server):
    assert server.ask("GET", "/health").json == {"status": "ok"}
    schema = server.ask("GET", "/openapi.json").json
    assert set(schema["paths"]) == {CHATS, TEXTS, "/v1/models", "/v1/models/{model}", "/health", "/metrics"}
    docs = server.ask("GET", "/docs")
    assert docs.status == 200 and docs.headers["content-security-policy"].startswith("default-src 'none'; style-src")
