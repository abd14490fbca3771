"""Replies: a batch gives what each prompt gives alone, a stream gives what a batch gives, all know where to stop."""

import json

import pytest
import torch
from falconer.model.generate.replies import Decoding, generate_replies, stream_reply
from transformers import AutoModelForCausalLM, GenerationConfig

from falconer.data.encode import Encoder
from falconer.model.generate import replies as generate
from falconer.model.generate.cut import finish
from falconer.model.load import load_model
from tiny import save_tiny_model

# Of different lengths, so that a batch of them is padded.
PROMPTS = [[300 + 7 * index for index in range(length)] for length in (3, 21, 1, 9)]


pytestmark = pytest.mark.usefixtures("one_thread")


class World:
    """A tiny model whose weights are large enough to have opinions, with its tokenizer and encoder."""

    def __init__(self, folder):
        torch.manual_seed(1)
        self.folder = folder
        self.loaded = load_model(str(folder), quantization="none", dtype="fp32", device="cpu")
        self.model = self.loaded.model
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4)
        self.tokenizer = self.loaded.tokenizer
        self.encoder = Encoder(self.tokenizer.backend_tokenizer.to_str(), self.loaded.end_id, 400)

    def favour(self, token, by):
        """Make a token more likely, by so many standard deviations of the logits."""
        head = self.model.get_output_embeddings()
        forward = head.forward
        added = by * float(self.model(input_ids=torch.tensor([PROMPTS[1]])).logits.std())

        def biased(hidden):
            logits = forward(hidden)
            logits[..., token] += added
            return logits

        head.forward = biased

    def batch(self, decoding, batch_size=4, autocast=None):
        replies = generate_replies(
            self.model, self.tokenizer, self.encoder, PROMPTS, decoding, batch_size=batch_size, autocast=autocast
        )
        return dict(replies)

    def stream(self, prompt, decoding, autocast=None):
        ids = list(stream_reply(self.model, self.encoder, prompt, decoding, autocast))
        return finish(self.tokenizer, ids, self.encoder)


@pytest.fixture(params=["falcon", "gpt2", "llama"])
def world(request, tmp_path):
    return World(save_tiny_model(tmp_path, request.param))


@pytest.fixture
def falcon(tiny_falcon):
    return World(tiny_falcon)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_batched_is_alone_is_streamed(world, penalty):
    world.favour(world.encoder.end_id, by=2.5)  # so that rows of a batch end at different steps
    decoding = Decoding(max_new_tokens=8, repetition_penalty=penalty)
    batched, pairs, alone = (world.batch(decoding, size) for size in (4, 2, 1))
    streamed = {index: world.stream(prompt, decoding) for index, prompt in enumerate(PROMPTS)}
    assert batched == pairs == alone == streamed
    assert len({reply.text for reply in batched.values()}) > 1, "the prompts matter"


def test_greedy_is_what_transformers_generates(world):
    stock = AutoModelForCausalLM.from_pretrained(world.folder, dtype=torch.float32)
    stock.load_state_dict(world.model.state_dict())
    replies = world.batch(Decoding(max_new_tokens=8))
    for index, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        output = stock.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8,
            eos_token_id=world.encoder.end_id, pad_token_id=world.encoder.end_id,
        )  # fmt: skip
        assert replies[index] == finish(world.tokenizer, output[0, len(prompt) :].tolist(), world.encoder)


def test_a_model_folders_own_habits_of_decoding_do_not_matter(tmp_path):
    folder = save_tiny_model(tmp_path)
    plain = World(folder).batch(Decoding(max_new_tokens=8))
    habits = GenerationConfig(do_sample=True, temperature=2.0, num_beams=3, no_repeat_ngram_size=1, min_new_tokens=9)
    (folder / "generation_config.json").write_text(json.dumps(habits.to_diff_dict()))
    assert World(folder).batch(Decoding(max_new_tokens=8)) == plain


def test_longest_prompts_come_first_and_each_once(falcon):
    order = [
        index
        for index, _ in generate_replies(
            falcon.model, falcon.tokenizer, falcon.encoder, PROMPTS, Decoding(2), batch_size=2, autocast=None
        )
    ]
    assert order == sorted(range(len(PROMPTS)), key=lambda index: -len(PROMPTS[index]))


def test_a_reply_ends_with_the_end_token(falcon):
    falcon.favour(falcon.encoder.end_id, by=1000)
    assert all(reply.ended and reply.text == "" for reply in falcon.batch(Decoding()).values())
    assert list(stream_reply(falcon.model, falcon.encoder, PROMPTS[0], Decoding(), None)) == [falcon.encoder.end_id]


def test_a_line_break_stops_a_reply_that_has_not_ended(falcon):
    (line_break,) = falcon.encoder.encode_text("\n")
    falcon.favour(line_break, by=1000)
    assert not any(reply.ended for reply in falcon.batch(Decoding()).values())
    assert list(stream_reply(falcon.model, falcon.encoder, PROMPTS[0], Decoding(), None)) == [line_break]


def test_what_fills_a_row_of_a_batch_behind_its_line_break_is_no_end_token(tmp_path, monkeypatch):
    world = World(save_tiny_model(tmp_path, "gpt2"))
    (line_break,), end = world.encoder.encode_text("\n"), world.encoder.end_id
    rows = [[400, line_break, end, end], [400, end, end, end], [400, 401, 402, end], [400, 401, 402, 403]]

    def generate(input_ids, **_):
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)

    monkeypatch.setattr(world.model, "generate", generate)
    monkeypatch.setattr("falconer.model.generate.replies.how_to_batch", lambda *_: "padded")
    # Rows of a batch stand in the order of their prompts' lengths.
    order = sorted(range(len(PROMPTS)), key=lambda index: -len(PROMPTS[index]))
    replies = world.batch(Decoding(max_new_tokens=4))
    assert [replies[index].ended for index in order] == [False, True, True, False]


def test_the_limit_stops_a_reply_that_has_not_ended(falcon):
    falcon.favour(400, by=1000)
    decoding = Decoding(max_new_tokens=5)
    (text,) = {reply.text for reply in falcon.batch(decoding).values()}
    assert text == falcon.tokenizer.decode([400] * 5).strip()
    assert falcon.stream(PROMPTS[0], decoding) == generate.Reply(text, ended=False)


@pytest.mark.parametrize("temperature", [0.7, 3.0])
def test_the_seed_fixes_what_is_sampled(falcon, temperature):
    def both(seed):
        decoding = Decoding(max_new_tokens=5, temperature=temperature, top_p=0.95, seed=seed)
        return falcon.batch(decoding), [falcon.stream(prompt, decoding) for prompt in PROMPTS]

    assert both(1) == both(1)
    assert both(1) != both(2)


@pytest.mark.parametrize("extreme", [{"temperature": 1e-30}, {"temperature": 50.0, "top_p": 1e-9}])
def test_hardly_any_freedom_is_greedy(falcon, extreme):
    greedy = [falcon.stream(prompt, Decoding(5)) for prompt in PROMPTS]
    assert [falcon.stream(prompt, Decoding(5, **extreme)) for prompt in PROMPTS] == greedy


def test_arithmetic_in_bf16_gives_replies_and_leaves_the_weights(falcon):
    decoding = Decoding(max_new_tokens=6)
    batched = falcon.batch(decoding, autocast=torch.bfloat16)
    assert len(batched) == len(PROMPTS)
    assert falcon.stream(PROMPTS[1], decoding, torch.bfloat16).text
    assert {parameter.dtype for parameter in falcon.model.parameters()} == {torch.float32}
