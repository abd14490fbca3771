"""The falcon path of generation against transformers' own `generate`, one prompt at a time, token by token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from falcon_tiny import VOCAB, tiny_falcon
from falconer.kernels import fused, reference
from falconer.model.falcon.infer_pass import Forward
from falconer.model.falcon.layout import backbone_of
from falconer.model.falcon.train_pass import FastPath
from falconer.model.generate import prefix as branch
from falconer.model.generate import slots as decode
from falconer.model.generate.prefix import families_of, split_families
from falconer.model.generate.sampling import Decoding
from falconer.model.generate.slots import Slots
from falconer.model.lora import without_adapter

END = 11
DIALOGUE = [(37 * index + 5) % VOCAB for index in range(90)]
# Four of one dialogue, one of which comes twice; two that are prefixes of nothing, one of which shares a beginning.
PROMPTS = [DIALOGUE[:20], DIALOGUE, [400], DIALOGUE[:71], DIALOGUE[:20], DIALOGUE[:8] + [3, 4], DIALOGUE[:1]]

pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(dtype=torch.float32, **settings):
    """Return a tiny model in evaluation mode, with weights large enough to say more than its last token again."""
    return tiny_falcon(dtype, targets="all-linear", initializer_range=0.15, **settings).eval()


def forward_of(model, ops=reference, **settings):
    path = FastPath(
        backbone_of(model), ops, fp8=False, memory="fast", cache_weights=settings.pop("hold", False), **settings
    )
    return Forward(path, model.get_output_embeddings())


def ours(model, prompts=PROMPTS, num_slots=None, stops=(END,), decoding=None, **settings):
    with torch.inference_mode():
        found = decode.decode(
            forward_of(model, **settings), prompts, decoding or Decoding(max_new_tokens=7), stops, num_slots
        )
        return [reply for _, reply in sorted(found)]


def stock(model, prompts=PROMPTS, stops=(END,), **options):
    replies = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=END,
            eos_token_id=list(stops) or None, **{"max_new_tokens": 7} | options,
        )  # fmt: skip
        replies.append(output[0, len(prompt) :].tolist())
    return replies


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def expected(model):
    return stock(model)


@pytest.fixture(scope="module")
def stops(expected):
    """Tokens that end some of the replies at their first token, some in their midst, and some never."""
    return (END, expected[0][0], expected[1][3])


@pytest.mark.parametrize(
    ("ops", "num_slots"), [(reference, None), (reference, 1), (reference, 2), (reference, 3), (fused, 2)]
)
def test_greedy_tokens_are_those_of_generate(model, stops, ops, num_slots):
    replies = ours(model, stops=stops, num_slots=num_slots, ops=ops)
    assert replies == stock(model, stops=stops)
    assert {1, 7} < {len(reply) for reply in replies}, "replies leave their slots at different steps"


def test_the_prompts_matter(expected):
    assert len({tuple(reply) for reply in expected}) == len(PROMPTS) - 1


def test_without_stop_tokens_every_reply_gets_all_its_tokens(model):
    replies = ours(model, stops=(), num_slots=2)
    assert replies == stock(model, stops=())
    assert {len(reply) for reply in replies} == {7}


@pytest.mark.parametrize("count", [1, 2])
def test_replies_of_one_token_and_of_two(model, count):
    assert ours(model, decoding=Decoding(count)) == stock(model, max_new_tokens=count)


def test_the_adapter_on_and_off(model, expected):
    with without_adapter(model):
        base = ours(model)
        assert base == stock(model)
    assert base != expected


def test_adapters_in_training_mode_drop_nothing_out(expected):
    model = model_of(dropout=0.5)
    assert ours(model.train()) == expected


@pytest.mark.parametrize("settings", [{}, {"hold": True}, {"fused": True}, {"fused": True, "ops": fused}], ids=str)
def test_4_bit_weights_in_every_way(settings):
    model, prompts = model_of(nf4=True), [DIALOGUE[:30], DIALOGUE[:3], [400]]
    found = ours(model, prompts, num_slots=2, decoding=Decoding(3), **settings)
    assert found == stock(model, prompts, max_new_tokens=3)


def test_a_cache_too_small_for_all_takes_them_in_turns(model, expected, monkeypatch):
    monkeypatch.setattr(branch, "MOST_CACHE_BYTES", 1)
    monkeypatch.setattr(branch, "PASS_TOKENS", {"cpu": 1})
    assert ours(model) == expected


def test_a_repetition_penalty_sees_prompt_and_reply_but_spares_what_stops(model):
    decoding = Decoding(max_new_tokens=7, repetition_penalty=1.7)
    alone = [ours(model, [prompt], decoding=decoding)[0] for prompt in PROMPTS]
    together = ours(model, num_slots=2, decoding=decoding)
    assert together == alone != ours(model, num_slots=2)
    # transformers spares nothing, and neither do we without stop tokens.
    assert ours(model, num_slots=3, stops=(), decoding=decoding) == stock(model, stops=(), repetition_penalty=1.7)


def test_what_is_sampled_depends_on_seed_and_number_and_not_on_the_batch(model):
    def sampled(seed, num_slots, prompts=PROMPTS):
        decoding = Decoding(max_new_tokens=7, temperature=1.5, top_p=0.95, top_k=50, seed=seed)
        return ours(model, prompts, num_slots, decoding=decoding)

    assert sampled(1, None) == sampled(1, 1) == sampled(1, 2)
    assert sampled(1, 2) != sampled(2, 2)
    replies = sampled(1, 2, [PROMPTS[0]] * 4)
    assert len({tuple(reply) for reply in replies}) == 4, "equal prompts draw for themselves"


def test_the_longest_dialogues_come_first(model):
    with torch.inference_mode():
        order = [n for n, _ in decode.decode(forward_of(model), PROMPTS, Decoding(3), (), 1)]
    assert order == [1, 3, 0, 4, 5, 6, 2]


def test_a_dialogue_is_computed_once(model, monkeypatch):
    sizes = []
    whole = Forward.hidden_states

    def counted(self, ids, *others):
        sizes.append(len(ids))
        return whole(self, ids, *others)

    monkeypatch.setattr(Forward, "hidden_states", counted)
    ours(model, [DIALOGUE[:n] for n in (90, 60, 30)], decoding=Decoding(2), stops=())
    assert sizes == [90, 3]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), max_size=12), st.integers(1, 20))
def test_every_prompt_is_in_one_family_whose_longest_begins_with_it(prompts, room):
    families = families_of(prompts)
    assert sorted(number for family in families for number in family.members) == list(range(len(prompts)))
    for family in families:
        assert list(family.ids) == prompts[family.members[0]]
        assert all(list(family.ids[: len(prompts[number])]) == prompts[number] for number in family.members)
    # As few as there can be: nobody's longest begins somebody else's.
    for one in families:
        assert not any(one is not other and other.ids[: len(one.ids)] == one.ids for other in families)
    parts = list(split_families(families, room))
    assert [family for part in parts for family in part] == families
    assert all(len(part) == 1 or sum(len(family.ids) for family in part) <= room for part in parts)


@pytest.mark.parametrize("penalty", [1.0, 1.7])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_what_a_recording_runs_beforehand_and_late_questions_change_no_reply(model, stops, penalty, steps, monkeypatch):
    """As on a GPU, but without one: all slots advance, also empty ones, and some steps come after a reply's end."""
    decoding = Decoding(max_new_tokens=7, repetition_penalty=penalty)
    expected = ours(model, num_slots=2, stops=stops, decoding=decoding)
    recordings = []

    class Recorded:
        def __init__(self, step, device):
            recordings.append(self)
            self.replay = step
            step()
            step()

    made = Slots.__init__

    def make(self, *arguments):
        made(self, *arguments)
        self.records = True

    monkeypatch.setattr(decode, "recorded", Recorded)
    monkeypatch.setattr(Slots, "__init__", make)
    monkeypatch.setattr(decode, "STEPS_UNASKED", steps)
    for num_slots in (2, 3, 50):
        assert ours(model, num_slots=num_slots, stops=stops, decoding=decoding) == expected
    assert len(recordings) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_recorded_step_does_what_it_does_unrecorded(nf4, penalty, monkeypatch):
    """Slots are left and entered again, and the last replies are written beside empty slots."""
    shape = {"hidden_size": 256, "num_attention_heads": 4, "ffn_hidden_size": 1024, "vocab_size": VOCAB}
    model = model_of(torch.bfloat16, nf4=nf4, device="cuda", rank=16, **shape)
    prompts = [[(n * 37 + 5 * k) % VOCAB for n in range(3 + 5 * k)] for k in range(12)] + PROMPTS
    decoding = Decoding(max_new_tokens=9, repetition_penalty=penalty)
    expected = ours(model, prompts, 8, decoding=decoding, ops=fused, fused=nf4)
    stops = (END, expected[0][0], expected[1][3], expected[2][5])
    recorded = ours(model, prompts, 8, stops=stops, decoding=decoding, ops=fused, fused=nf4)
    monkeypatch.setattr(Slots, "advance", Slots.step)
    assert ours(model, prompts, 8, stops=stops, decoding=decoding, ops=fused, fused=nf4) == recorded
    assert len({len(reply) for reply in recorded}) > 2
