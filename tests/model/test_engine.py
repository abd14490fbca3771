"""An engine: a batch gives what each request gets alone, a conversation what a batch gives; it keeps and gives back."""

import functools
import gc
import itertools
import json
import threading
import weakref

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from engines import alone, ask, engine_of, mini_encoder, requests
from falcon_tiny import VOCAB, tiny_falcon
from falconer.data.sources import load_dialogues
from falconer.errors import FalconerError
from falconer.model import engine as asking
from falconer.model.engine import Decoding, Engine, Reply, Request
from falconer.model.falcon import infer_pass
from falconer.model.generate.generic import GenericReplies
from falconer.model.generate.generic_prefix import PrefixPass
from falconer.model.generate.slots import Slots
from falconer.model.load import load_model
from falconer.model.lora import trainable_tensors, without_adapter
from falconer.runtime import Precision
from tiny import config_of, save_tiny_model

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
        self.encoder = mini_encoder()
        self.engine = engine_of(self.model, self.encoder)

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

    def batch(self, decoding, batch_size=4):
        return dict(self.engine.replies(requests(PROMPTS, decoding), batch_size=batch_size))

    def stream(self, prompt, decoding, number=0):
        return self.engine.finish(list(self.engine.conversation().reply(Request(prompt, decoding, number))))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function that gives the folder of a tiny model of an architecture, which is written once."""
    return functools.cache(lambda name: save_tiny_model(tmp_path_factory.mktemp("saved") / name, name))


@pytest.fixture(params=["falcon", "gpt2", "llama"])
def world(request, saved):
    return World(saved(request.param))


@pytest.fixture
def falcon(tiny_falcon):
    return World(tiny_falcon)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_batched_is_alone_is_streamed(world, penalty):
    world.favour(world.encoder.end_id, by=2.5)  # so that rows of a batch end at different steps
    decoding = Decoding(max_new_tokens=8, repetition_penalty=penalty)
    batched, pairs, alone = (world.batch(decoding, size) for size in (4, 2, 1))
    streamed = {index: world.stream(prompt, decoding) for index, prompt in enumerate(PROMPTS)}
    assert world.engine.path == ("fast" if world.model.config.model_type == "falcon" else "generic")
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
        assert replies[index] == world.engine.finish(output[0, len(prompt) :].tolist())


def test_a_model_folders_own_habits_of_decoding_do_not_matter(tmp_path):
    folder = save_tiny_model(tmp_path)
    plain = World(folder).batch(Decoding(max_new_tokens=8))
    habits = GenerationConfig(do_sample=True, temperature=2.0, num_beams=3, no_repeat_ngram_size=1, min_new_tokens=9)
    (folder / "generation_config.json").write_text(json.dumps(habits.to_diff_dict()))
    assert World(folder).batch(Decoding(max_new_tokens=8)) == plain


def test_longest_prompts_come_first_and_each_once(falcon):
    order = [index for index, _ in falcon.engine.replies(requests(PROMPTS, Decoding(2)), batch_size=2)]
    assert order == sorted(range(len(PROMPTS)), key=lambda index: -len(PROMPTS[index]))


def test_a_reply_ends_with_the_end_token(falcon):
    falcon.favour(falcon.encoder.end_id, by=1000)
    assert all(reply.ended and reply.text == "" for reply in falcon.batch(Decoding()).values())
    assert list(falcon.engine.conversation().reply(Request(PROMPTS[0]))) == [falcon.encoder.end_id]


def test_a_line_break_stops_a_reply_that_has_not_ended(falcon):
    (line_break,) = falcon.encoder.encode_text("\n")
    falcon.favour(line_break, by=1000)
    assert not any(reply.ended for reply in falcon.batch(Decoding()).values())
    assert list(falcon.engine.conversation().reply(Request(PROMPTS[0]))) == [line_break]


def test_the_limit_stops_a_reply_that_has_not_ended(falcon):
    falcon.favour(400, by=1000)
    decoding = Decoding(max_new_tokens=5)
    (text,) = {reply.text for reply in falcon.batch(decoding).values()}
    assert text == falcon.tokenizer.decode([400] * 5).strip()
    assert falcon.stream(PROMPTS[0], decoding) == Reply(text, ended=False)


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


def test_precision_bf16_gives_replies_and_leaves_the_weights(falcon):
    engine, decoding = engine_of(falcon.model, precision=torch.bfloat16), Decoding(max_new_tokens=6)
    assert (engine.path, engine.why) == ("generic", "it computes in the weights' float32, not in bfloat16")
    assert all(ask(engine, requests(PROMPTS, decoding)))
    assert list(engine.conversation().reply(Request(PROMPTS[1], decoding)))
    assert {parameter.dtype for parameter in falcon.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("path", ["auto", "generic"])
def test_falcon_mini_answers_as_transformers_and_a_plain_loop_do(path):
    loaded = load_model("falcon-mini", quantization="none", dtype="fp32", device="cpu")
    encoder, model = mini_encoder(512), loaded.model
    engine = engine_of(model, encoder, path=path)
    dialogues = load_dialogues("persona-chat-sample", split="test").dialogues[:2]
    turns = [(dialogue, index) for dialogue in dialogues for index in dialogue.replies[:2]]
    prompts = [encoder.encode_prompt(d.persona, d.turns[:index], reserve=12) for d, index in turns]
    replies = ask(engine, requests(prompts, Decoding(12)), batch_size=4)
    candidates = [[encoder.encode_text(f" {text}") for text in d.turns[index].candidates[-2:]] for d, index in turns]
    scores = engine.rank(prompts, candidates)
    examples, _ = encoder.encode(dialogues)
    likelihoods = engine.likelihoods(examples)

    def nll(ids, start):
        """Return the negative log-likelihoods of the tokens from `start` on."""
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(1)
        return [-float(logits[place - 1, ids[place]]) for place in range(start, len(ids))]

    for prompt, reply, texts, found in zip(prompts, replies, candidates, scores, strict=True):
        ids = torch.tensor([prompt])
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12,
            eos_token_id=list(engine.stops), pad_token_id=encoder.end_id,
        )  # fmt: skip
        assert reply == output[0, len(prompt) :].tolist()
        sums = [-sum(nll([*prompt, *text, encoder.end_id], len(prompt))) for text in texts]
        np.testing.assert_allclose(found.sums, sums, rtol=1e-4)
        assert found.sums.argsort().tolist() == np.argsort(sums).tolist()
    for example, found in zip(examples, likelihoods, strict=True):
        expected = np.array(nll(example.ids.tolist(), 1))[example.is_target[1:]]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("layout", "name"), [("40b", "Falcon-40B"), ("11b", "Falcon-11B")])
def test_the_path_of_other_layouts(layout, name):
    engine = engine_of(tiny_falcon(torch.float32, layout=layout))
    assert (engine.path, engine.why) == ("fast", f"the model has {name}'s layout")


def test_the_path_is_decided_once_and_says_why():
    model = tiny_falcon(torch.float32)
    engine = engine_of(model)
    assert (engine.path, engine.why) == ("fast", "the model has Falcon-7B's layout")
    assert engine.how() == engine.how(num_rows=1) == "falcon: unquantised weights"
    assert not model.training, "nobody is dropped out"
    asked = engine_of(model, path="generic")
    assert (asked.path, asked.how()) == ("generic", "generic: as configured")
    other = engine_of(AutoModelForCausalLM.from_config(config_of("gpt2", VOCAB, 11)))
    assert other.how() == "generic: it knows Falcon, not gpt2"
    how = engine_of(tiny_falcon(torch.float32, nf4=True)).how()
    assert how.startswith("falcon: 4-bit weights, dequantised once and cached: ") and how.endswith(" MiB fit")


MIXED = [
    Decoding(8),
    # Among few tokens: where 10,000 are as good as equal, a rounded digit puts another one in their order.
    Decoding(5, temperature=1.5, top_k=20, top_p=0.95, seed=3, stops=()),
    Decoding(8, repetition_penalty=1.7),
    Decoding(7, temperature=1.2, top_k=9, repetition_penalty=1.3, seed=4, stops=tuple(range(0, 9000, 5))),
]


def mixed(prompts):
    pairs = zip(prompts, itertools.cycle(MIXED), strict=False)
    return [Request(prompt, decoding, 3 * number) for number, (prompt, decoding) in enumerate(pairs)]


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_unlike_requests_share_a_batch_and_none_depends_on_it(world, batch_size):
    asked = mixed(PROMPTS * 2)
    by_itself = alone(world.engine, asked)
    assert ask(world.engine, asked, batch_size) == by_itself
    assert ask(world.engine, asked[::-1], batch_size) == by_itself[::-1]
    assert [list(world.engine.conversation().reply(request)) for request in asked] == by_itself
    assert by_itself[1] != by_itself[5], "equal requests of other numbers sample for themselves"


def chats(engine, num, turns):
    """Return (prompts of each turn) of some conversations, each with its own words."""
    prompts = [[40 + number, 7, 300 + number] for number in range(num)]
    for turn in range(turns):
        yield prompts
        prompts = [[*prompt, 500 + 3 * number + turn, 8] for number, prompt in enumerate(prompts)]


@pytest.mark.parametrize("architecture", ["falcon", "gpt2"])
def test_32_conversations_at_once_get_the_replies_that_each_gets_alone(tmp_path, architecture):
    engine = World(save_tiny_model(tmp_path, architecture)).engine
    talks = [engine.conversation() for _ in range(32)]
    for prompts in chats(engine, 32, turns=3):
        expected = alone(engine, requests(prompts, Decoding(6)))
        streams = {n: talk.reply(Request(prompts[n], Decoding(6))) for n, talk in enumerate(talks)}
        found = [[] for _ in talks]
        while streams:
            for number, stream in list(streams.items()):
                token = next(stream, None)
                if token is None:
                    del streams[number]
                else:
                    found[number].append(token)
        assert found == expected
        assert len(set(map(tuple, expected))) > 16, "the conversations differ"


@pytest.mark.parametrize("architecture", ["falcon", "gpt2"])
def test_each_conversation_may_have_a_thread_of_its_own(tmp_path, architecture):
    engine = World(save_tiny_model(tmp_path, architecture)).engine
    asked = mixed([[40 + number, 7, 300 + number] for number in range(12)])
    expected, found = alone(engine, asked), [None] * 12

    def talk(number):
        found[number] = list(engine.conversation().reply(asked[number]))

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


@pytest.mark.parametrize("architecture", ["falcon", "llama"])
def test_a_reply_ends_where_another_of_its_conversation_begins_or_the_conversation_closes(tmp_path, architecture):
    engine = World(save_tiny_model(tmp_path, architecture)).engine
    talk, asked = engine.conversation(), requests(PROMPTS, Decoding(6, stops=()))
    expected = alone(engine, asked)
    first, second = talk.reply(asked[1]), talk.reply(asked[3])
    assert [next(first), next(first)] == expected[1][:2]
    assert [next(second), *first, *second] == expected[3]
    third = talk.reply(asked[0])
    assert next(third) == expected[0][0]
    talk.close()
    assert list(third) == []
    assert list(talk.reply(asked[0])) == expected[0]


class Broken:
    """Lets the next pass of a model break off in its midst."""

    def __init__(self, engine, monkeypatch, error):
        self.patch, self.error, self.engine = monkeypatch, error, engine

    def __enter__(self):
        def fail(*_, **__):
            raise self.error

        if self.engine.path == "fast":
            self.patch.setattr(infer_pass.Forward, "logits", fail)
        else:
            self.patch.setattr(self.engine.model.model.layers[1], "forward", fail)

    def __exit__(self, *_):
        self.patch.undo()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), torch.OutOfMemoryError("a test")])
@pytest.mark.parametrize("architecture", ["falcon", "llama"])
def test_a_conversation_goes_on_after_a_step_that_broke_off(tmp_path, architecture, error, monkeypatch):
    """Ctrl-C and a lack of memory come amid a pass, when some layers have the new token's keys and others do not."""
    engine = World(save_tiny_model(tmp_path, architecture)).engine
    talk, decoding = engine.conversation(), Decoding(6, stops=())
    other = engine.conversation().reply(Request(PROMPTS[3], decoding))
    said = [next(other)]
    reply = talk.reply(Request(PROMPTS[1], decoding))
    heard = [next(reply), next(reply)]
    told = FalconerError if isinstance(error, torch.OutOfMemoryError) else KeyboardInterrupt
    with Broken(engine, monkeypatch, error), pytest.raises(told) as raised:
        next(reply)
    assert told is KeyboardInterrupt or "Out of memory (conversation): a reply did not fit on the CPU" in str(raised)
    further = Request([*PROMPTS[1], *heard, 40, 41], decoding)
    assert list(talk.reply(further)) == alone(engine, [further])[0]
    assert [*said, *other] == alone(engine, [Request(PROMPTS[3], decoding)])[0]


def test_the_base_is_the_same_engine_with_the_adapter_off():
    model = tiny_falcon(torch.float32, targets="all-linear", initializer_range=0.15)
    examples = [asking._example(prompt[:3], prompt[3:], 11) for prompt in ([5, 6, 7, 8, 9], [9, 8, 7, 6])]
    for path in ("auto", "generic"):
        engine, decoding = engine_of(model, path=path), Decoding(6, stops=())
        asked = requests([[9, 8], list(range(30))], decoding)
        tuned, base = ask(engine, asked), ask(engine.base, asked)
        with without_adapter(model):
            stock = engine_of(model, path="generic")
            assert ask(stock, asked) == base != tuned
            expected = stock.likelihoods(examples)
            scores = stock.rank([[1, 2]], [[[3], [4, 5]]])[0].sums
        for one, other in zip(engine.base.likelihoods(examples), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4)
        np.testing.assert_allclose(engine.base.rank([[1, 2]], [[[3], [4, 5]]])[0].sums, scores, rtol=1e-4)
        assert not np.allclose(engine.rank([[1, 2]], [[[3], [4, 5]]])[0].sums, scores, rtol=1e-3)
        # Both at once, turn about.
        pairs = zip(engine.conversation().reply(asked[1]), engine.base.conversation().reply(asked[1]), strict=True)
        assert [list(reply) for reply in zip(*pairs, strict=True)] == [tuned[1], base[1]]


def test_nothing_is_kept_of_weights_that_have_changed():
    model = tiny_falcon(torch.float32, targets="all-linear", initializer_range=0.15)
    engine, request = engine_of(model), Request(list(range(30)), Decoding(6, stops=()))
    talk = engine.conversation()
    before = list(talk.reply(request))
    with torch.no_grad():
        for parameter in trainable_tensors(model).values():
            parameter.mul_(-2)
    trained = list(talk.reply(request))
    assert trained == ask(engine, [request])[0] == ask(engine_of(model), [request])[0] != before
    with without_adapter(model):
        assert list(talk.reply(request)) == ask(engine_of(model), [request])[0] != trained


def test_what_can_not_be_read_is_refused(falcon):
    talk = falcon.engine.conversation()
    with pytest.raises(
        FalconerError, match=r"with its reply, takes 411 tokens, 11 more than the context allows \(400\)"
    ):
        list(talk.reply(Request([1] * 401, Decoding(10))))
    with pytest.raises(FalconerError, match="takes 2,049 tokens, 1 more"):
        list(falcon.engine.tokens([Request([1] * 2047, Decoding(2))]))
    with pytest.raises(FalconerError, match="has token id 99,999"):
        list(talk.reply(Request([99999])))
    with pytest.raises(FalconerError, match="A prompt has token id 99,999"):
        falcon.engine.rank([[99999]], [[[1]]])
    for stop in (99999, -1):
        with pytest.raises(FalconerError, match=f"A list of stop tokens has token id {stop:,}"):
            list(talk.reply(Request([1], Decoding(2, stops=(3, stop)))))
    for prompts, candidates in (([[]], [[[1]]]), ([[1]], []), ([[1]], [[[1]], [[2]]])):
        with pytest.raises(ValueError, match="each prompt has at least one token, and a list of candidates of its own"):
            falcon.engine.rank(prompts, candidates)
    with pytest.raises(FalconerError, match="A candidate has token id 99,999"):
        falcon.engine.rank([[1]], [[[99999]]])
    assert list(talk.reply(Request([1], Decoding(2))))


# Memory


class Scarce:
    """Lets a function of the engine run out of memory for whatever is larger than `most`."""

    def __init__(self, monkeypatch, place, name, size_of, most):
        self.tried, real = [], getattr(place, name)

        def limited(*arguments, **options):
            self.tried.append(size_of(*arguments))
            if self.tried[-1] > most:
                raise torch.OutOfMemoryError("out of memory, says a test")
            return real(*arguments, **options)

        monkeypatch.setattr(place, name, limited)


def test_likelihoods_without_room_are_halved_and_none_is_lost(world, monkeypatch):
    examples = [asking._example(list(range(1, n)), [7] * n, world.encoder.end_id) for n in range(2, 30)]
    expected, seen, notes = world.engine.likelihoods(examples), [], []
    scarce = Scarce(monkeypatch, asking, "target_nll", lambda model, batch: batch.ids.size, 300)
    world.engine.on_note(notes.append)
    found = world.engine.likelihoods(examples, lambda *report: seen.append(report))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)
    assert seen[-1] == (28, 28) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert (
        notes
        == list(world.engine.notes)
        == ["out of memory (likelihoods): a batch of 28 did not fit, so batches were halved until they did"]
    )
    failures = sum(size > 300 for size in scarce.tried)
    world.engine.likelihoods(examples)
    assert sum(size > 300 for size in scarce.tried) == failures, "what was learned once holds from now on"
    with pytest.raises(
        FalconerError, match="likelihoods.*a batch of 1 did not fit on the CPU, and it can't be divided"
    ):
        world.engine.likelihoods([asking._example([1] * 200, [7] * 190, world.encoder.end_id)])


@pytest.mark.parametrize("branches", [True, False])
def test_replies_without_room_are_halved_and_none_is_lost(world, branches, monkeypatch):
    if not branches:
        monkeypatch.setattr(PrefixPass, "works", lambda *_: False)
    asked = mixed(PROMPTS * 4)
    expected = ask(world.engine, asked, 16)
    if world.engine.path == "fast":
        scarce = Scarce(monkeypatch, Slots, "step", lambda slots, num, kind: num, 3)
    elif branches:
        scarce = Scarce(monkeypatch, PrefixPass, "read", lambda forward, cache, cached, new, places: len(new), 3)
    else:
        scarce = Scarce(monkeypatch, GenericReplies, "_whole", lambda generic, some: len(some), 3)
    assert ask(world.engine, asked, 16) == expected
    assert max(scarce.tried) > 3 and len(world.engine.notes) == 1
    assert "out of memory (replies): a batch of 1" in world.engine.notes[0]
    order = [index for index, _ in world.engine.tokens(asked, batch_size=16)]
    assert sorted(order) == list(range(16)), "each comes once"


def test_candidates_without_room_are_halved_and_none_is_lost(falcon, monkeypatch):
    prompts = [list(range(1, n)) for n in (4, 30, 9)]
    # None begins as another does, so nothing is shared.
    candidates = [[[20 + n] * n for n in range(12)], [[6, 7]], [[8] * 20, [9]]]
    expected, seen = falcon.engine.rank(prompts, candidates), []
    scarce = Scarce(monkeypatch, infer_pass.Forward, "hidden_states", lambda self, ids, *_: len(ids), 45)
    found = falcon.engine.rank(prompts, candidates, lambda *report: seen.append(report))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.sums, other.sums, rtol=1e-4)
        assert one.num_tokens.tolist() == other.num_tokens.tolist()
    assert max(scarce.tried) > 45 and seen[-1] == (15, 15)
    assert len(falcon.engine.notes) == 1 and "out of memory (candidates)" in falcon.engine.notes[0]
    monkeypatch.setattr(infer_pass.Forward, "hidden_states", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(FalconerError, match="can't be divided further"):
        falcon.engine.rank(prompts, candidates)


def test_candidates_without_room_are_halved_on_the_generic_path_too(tmp_path, monkeypatch):
    engine = World(save_tiny_model(tmp_path, "llama")).engine
    prompts = [list(range(1, n)) for n in (4, 30, 9)]
    candidates = [[[5] * n for n in range(12)], [[6, 7]], [[8] * 20, [9]]]
    expected = engine.rank(prompts, candidates)
    scarce = Scarce(monkeypatch, PrefixPass, "read", lambda forward, cache, cached, new, places: len(new), 4)
    for one, other in zip(engine.rank(prompts, candidates), expected, strict=True):
        np.testing.assert_allclose(one.sums, other.sums, rtol=1e-4)
    assert max(scarce.tried) > 4 and "out of memory (candidates)" in engine.notes[0]


def resident_mib():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


@pytest.mark.parametrize("architecture", ["falcon", "llama"])
def test_memory_stays_where_it_is_over_many_turns(tmp_path, architecture):
    engine = engine_of(World(save_tiny_model(tmp_path, architecture)).model, num_conversations=4)

    def turns(num):
        for number in range(num):
            talk = engine.conversation()
            prompt = [number % 50 + 1] * (20 + number % 7)
            reply = list(talk.reply(Request(prompt, Decoding(3, stops=()))))
            list(talk.reply(Request([*prompt, *reply, 5, 6], Decoding(3, stops=()))))
            if number % 2:
                talk.close()

    def tensors():
        gc.collect()
        return sum(1 for one in gc.get_objects() if type(one) is torch.Tensor)

    turns(10)
    before, resident = tensors(), resident_mib()
    turns(60)
    assert tensors() <= before + 8
    assert resident_mib() < resident + 30


@pytest.mark.parametrize("nf4", [False, True])
def test_closing_gives_everything_back(nf4):
    model = tiny_falcon(torch.float32, nf4=nf4)
    with engine_of(model) as engine:
        talk, request = engine.conversation(), Request([1, 2, 3], Decoding(3, stops=()))
        unheard = talk.reply(request)
        next(unheard)
        ask(engine.base, [request])
        engine.likelihoods([asking._example([1], [2], 3)])
        kept = engine._kept
        owned = [*kept._paths.values(), *kept._sides.values(), kept.pool(False).slots]
        held = [weakref.ref(one) for one in owned if not hasattr(type(one), "__slots__")]
        caches = weakref.ref(kept.pool(False).slots.cache_LPG2H)
        del owned
    assert len(held) == 2
    with pytest.raises(RuntimeError, match="The engine is closed"):
        next(unheard)
    del kept, unheard
    gc.collect()
    assert caches() is None and [one() for one in held] == [None, None]
    for further in (
        lambda: list(talk.reply(request)),
        lambda: list(engine.tokens([request])),
        lambda: engine.likelihoods([]),
        lambda: engine.rank([], []),
        engine.conversation,
        engine.how,
    ):
        with pytest.raises(RuntimeError, match="The engine is closed"):
            further()
    engine.close()
    assert ask(engine_of(model), [request]), "the model is as it was"


def test_a_conversation_that_nobody_has_any_more_gives_its_cache_back(world):
    engine = Engine(world.model, world.encoder, Precision(torch.float32, ""), num_conversations=2)
    decoding = Decoding(3, stops=())

    def owners():
        if engine.path == "fast":
            return {row.owner for row in engine._kept.pool(False)._rows} - {None}
        return set(engine._kept.generic(False)._known)

    one, other = engine.conversation(), engine.conversation()
    for talk in (one, other):
        list(talk.reply(Request([1, 2, 3], decoding)))
    assert owners() == {1, 2}
    list(engine.conversation().reply(Request([1, 2, 3], decoding)))
    assert owners() == {2}, "the least recently used made room, and the third is gone already"
    other.close()
    assert owners() == set()
    assert list(one.reply(Request([1, 2, 3], decoding))) == list(other.reply(Request([1, 2, 3], decoding)))
    del one, other, talk
    gc.collect()
    assert owners() == set()
