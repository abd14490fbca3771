"""A conversation's replies against those of a batch, what its cache spares, and that many at once do not mix."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from decoded import asked, forward_of, listen_to_recordings, model_of
from falcon_tiny import GPU_SHAPES, LAYOUTS, VOCAB
from falconer.errors import FalconerError
from falconer.kernels.formats import Layout
from falconer.kernels.nf4_rows import RowProducts
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate import fast_running, prompt_pass
from falconer.model.generate.fast_running import FEWEST_COPIED, FastRunning
from falconer.model.generate.prefix import shared_tokens
from falconer.model.request import Decoding, Joining, Request

DECODING = Decoding(max_new_tokens=6, stops=())
TALK = [(37 * index + 5) % VOCAB for index in range(60)]
# A conversation goes on, is asked the same again, and starts anew.
PROMPTS = [TALK[:20], TALK[:41], TALK, TALK, TALK[:7] + [3, 4, 5], [9]]
NONE = torch.tensor([], dtype=torch.int64)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(request):
    return model_of(layout=getattr(request, "param", "7b"))


@pytest.fixture(params=[False, True], ids=["", "ahead"])
def pool(request, model):
    pool = FastRunning(forward_of(model), NONE, num_slots=3, num_rows=3, row_tokens=80)
    pool.launches_ahead = request.param
    return pool


def alone(model, prompt, decoding=DECODING, number=0):
    return asked(model, [Request(prompt, decoding, number)])[0]


def said(pool, prompt, decoding=DECODING, owner=1, number=0):
    return list(pool.stream(owner, Request(prompt, decoding, number)))


@pytest.fixture
def sizes(monkeypatch):
    """Tokens of each prompt's pass: what a conversation goes on with."""
    found, whole = [], prompt_pass.extend

    def counted(forward, extensions, cache):
        found.extend(len(one.ids) for one in extensions)
        return whole(forward, extensions, cache)

    monkeypatch.setattr(prompt_pass, "extend", counted)
    return found


@pytest.mark.parametrize("model", LAYOUTS, indirect=True)
def test_every_turn_is_what_a_fresh_start_gives_though_only_what_is_new_is_computed(model, pool, sizes):
    assert [said(pool, prompt) for prompt in PROMPTS] == [alone(model, prompt) for prompt in PROMPTS]
    assert sizes == [20, 21, 19, 1, 3, 1]


def test_what_the_model_said_itself_is_not_computed_again(model, pool, sizes):
    reply = said(pool, TALK[:20])
    prompt = [*TALK[:20], *reply, 7, 8]
    assert said(pool, prompt) == alone(model, prompt)
    # The reply's last token was said and never read.
    assert sizes == [20, 3]


def test_what_is_shared_ends_where_two_prompts_differ_and_before_the_last_token():
    assert shared_tokens([1, 2, 3], [1, 2, 4, 5]) == 2
    assert shared_tokens([1, 2, 3], [1, 2, 3, 4]) == 3
    assert shared_tokens([1, 2, 3], [1, 2, 3]) == shared_tokens([1, 2, 3], [1, 2, 9]) == 2
    assert shared_tokens([], [1]) == shared_tokens([1], [1]) == 0


def test_a_reply_stops_and_may_be_left_unheard(model, pool):
    whole = alone(model, TALK)
    assert said(pool, TALK, replace(DECODING, stops=(whole[2],))) == whole[: whole.index(whole[2]) + 1]
    assert said(pool, TALK, replace(DECODING, stops=(whole[0],))) == said(pool, TALK, Decoding(1)) == whole[:1]
    unheard = pool.stream(1, Request(TALK, DECODING))
    assert [next(unheard), next(unheard)] == whole[:2]
    unheard.close()
    assert said(pool, TALK[:41]) == alone(model, TALK[:41])


def test_a_new_reply_ends_the_one_before_in_the_same_conversation(model, pool):
    unheard = pool.stream(1, Request(TALK, DECODING))
    first = next(unheard)
    assert said(pool, TALK[:41]) == alone(model, TALK[:41])
    assert [first, *unheard] == alone(model, TALK)[:1]
    assert said(pool, TALK) == alone(model, TALK)


def test_sampling_and_penalty_are_those_of_a_batch(model, pool):
    decoding = Decoding(max_new_tokens=6, temperature=1.2, repetition_penalty=1.3, seed=5, stops=())
    for number, prompt in enumerate(PROMPTS):
        assert said(pool, prompt, decoding, number=number) == alone(model, prompt, decoding, number)


MIXED = [
    (TALK, DECODING),
    (PROMPTS[4], Decoding(4, temperature=1.5, top_p=0.95, seed=3, stops=())),
    (TALK[:41], Decoding(9, repetition_penalty=1.7, stops=())),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_conversations_at_once_do_not_mix(model, pool, order):
    expected = [alone(model, *one) for one in MIXED]
    found = [[] for _ in MIXED]
    streams = {number: pool.stream(number, Request(*MIXED[number])) for number in order}
    # The one that comes first is asked twice as often.
    for turn in itertools.cycle((order[0], *order)):
        if turn in streams:
            token = next(streams[turn], None)
            if token is None:
                del streams[turn]
            else:
                found[turn].append(token)
        if not streams:
            break
    assert found == expected


def test_rows_go_round_the_least_recently_used_first_and_none_that_is_in_use(model, pool, sizes):
    # They begin differently, or one would begin with a copy of another.
    prompts = {owner: [owner, *TALK[1:20]] for owner in range(1, 6)}

    def expected(*owners):
        return [alone(model, prompts[owner]) for owner in owners]

    for owner in (1, 2, 3, 1, 4):
        said(pool, prompts[owner], owner=owner)
    assert sizes == [20, 20, 20, 1, 20]
    sizes.clear()
    for owner in (1, 3, 4, 2):
        said(pool, prompts[owner], owner=owner)
    assert sizes == [1, 1, 1, 20], "the second was given up for the fourth"
    pool.forget(2)
    sizes.clear()
    said(pool, prompts[5], owner=5)
    assert [said(pool, prompts[owner], owner=owner) for owner in (3, 4)] == expected(3, 4)
    assert sizes == [20, 1, 1], "a row that was given back is taken first"


@pytest.mark.parametrize("model", LAYOUTS, indirect=True)
def test_a_beginning_that_another_conversation_has_is_copied(model, pool, sizes):
    said(pool, TALK[:40], owner=1)
    other = [*TALK[:30], 3, 4]
    assert said(pool, other, owner=2) == alone(model, other)
    assert said(pool, TALK, owner=1) == alone(model, TALK), "the first still has its own"
    assert sizes == [40, 2, 20]
    few = [*TALK[: FEWEST_COPIED - 1], 7]
    assert said(pool, few, owner=3) == alone(model, few)
    assert sizes[3:] == [len(few)], "a short beginning is computed again"


def test_more_replies_at_once_than_rows_are_refused_and_the_others_go_on(model, pool):
    streams = [pool.stream(owner, Request(TALK, DECODING)) for owner in range(3)]
    found = [[next(stream)] for stream in streams]
    with pytest.raises(FalconerError, match="3 replies are already being generated.*maximum"):
        said(pool, [1], owner=7)
    for reply, stream in zip(found, streams, strict=True):
        reply += stream
    assert found == [alone(model, TALK)] * 3
    assert said(pool, [1], owner=7) == alone(model, [1])


def test_a_step_is_recorded_once_for_a_number_of_replies_and_a_kind(model, pool, monkeypatch):
    """As on a GPU, but without one."""
    recordings = listen_to_recordings(monkeypatch)
    pool.slots.records = True
    assert said(pool, TALK) == alone(model, TALK)
    assert len(recordings) == 1
    for owner in (1, 2, 3, 4):
        assert said(pool, TALK[:41], owner=owner) == alone(model, TALK[:41])
    assert len(recordings) == 1, "other conversations take the same step"
    for _ in range(3):
        pairs = zip(*(pool.stream(owner, Request(TALK, DECODING)) for owner in (1, 2)), strict=True)
        assert [list(reply) for reply in zip(*pairs, strict=True)] == [alone(model, TALK)] * 2
    assert len(recordings) == 2, "two at once are a step of another size"
    warm = replace(DECODING, temperature=1.0)
    assert said(pool, TALK, warm) == alone(model, TALK, warm)
    assert said(pool, TALK) == alone(model, TALK)
    assert len(recordings) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_recorded_conversations_on_a_gpu(nf4, layout):
    shape = GPU_SHAPES[layout] | {"num_hidden_layers": 2, "vocab_size": VOCAB, "rank": 16}
    model = model_of(torch.bfloat16, nf4=nf4, device="cuda", layout=layout, **shape)
    from falconer.kernels import fused

    pool = FastRunning(forward_of(model, fused, fused=nf4), NONE.cuda(), num_slots=3, num_rows=3, row_tokens=80)
    first = [said(pool, prompt) for prompt in PROMPTS]
    assert all(len(reply) == 6 for reply in first)
    again = [said(pool, prompt) for prompt in PROMPTS]
    # From the second turn on both see the same prompts in the same state of the cache.
    assert again[1:] == first[1:]
    graphs = dict(pool.slots._graphs)
    others = [said(pool, prompt, owner=2) for prompt in PROMPTS]
    assert others == first and pool.slots._graphs == graphs, "nothing is recorded again for another conversation"


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("num", [1, 3, 7, 16])
def test_the_cuda_kernel_for_few_rows_says_the_same(num, layout):
    """Greedy replies at the same time; where two differ, the two tokens were as likely, within bf16's rounding.

    A random model has many tokens that are nearly as likely as one another: logits 3 units in the last place apart,
    0.06 of their spread, were chosen differently.
    """
    from falconer.kernels import fused

    shape = GPU_SHAPES[layout] | {"num_hidden_layers": 2, "vocab_size": VOCAB, "rank": 16}
    model = model_of(torch.bfloat16, nf4=True, device="cuda", layout=layout, **shape)
    kernel, prompts = RowProducts(torch.device("cuda", 0), True, None), [TALK[: 3 + 3 * k] for k in range(num)]
    replies = []
    for by in (kernel, None):
        forward = forward_of(model, fused, fused=True, row_kernel=by)
        pool = FastRunning(forward, NONE.cuda(), num_slots=num, num_rows=num, row_tokens=90)
        replies.append(finished(pool, pool.join([Joining(Request(prompt, DECODING)) for prompt in prompts])))
    for prompt, by_cuda, plain in zip(prompts, *replies, strict=True):
        assert len(by_cuda) == len(plain) == DECODING.max_new_tokens
        place = next((at for at, (a, b) in enumerate(zip(by_cuda, plain, strict=True)) if a != b), None)
        if place is not None:
            ids = torch.tensor([*prompt, *plain[:place]], device="cuda")
            positions = torch.arange(len(ids), device="cuda")
            layout_of_one = Layout(1, len(ids))
            hidden = forward.hidden_states(
                ids, positions, lambda _, qkv, at=layout_of_one: fused.attention(qkv, at, forward.heads).out
            )
            logits = forward.logits(hidden)[-1]
            assert (logits[by_cuda[place]] - logits[plain[place]]).abs() < 0.1 * logits.std()


def finished(running, writings):
    """Return the tokens of replies in the order of `writings`, after steps until all are finished."""
    reported = {writing: [] for writing in writings}
    while not all(writing.is_done for writing in writings):
        for writing, said in running.step():
            reported[writing].append(said.token)
    for writing, said in running.step():
        reported[writing].append(said.token)
    assert [[said.token for said in writing.said] for writing in writings] == list(reported.values())
    return list(reported.values())


def test_every_token_is_reported_once_and_requests_share_passes(model, pool, sizes):
    requests = [Request(prompt, DECODING) for prompt in PROMPTS[:3]]
    writings = pool.join([Joining(one) for one in requests])
    assert sizes == [20, 41, 60], "one pass computes all three"
    assert finished(pool, writings) == [alone(model, one.prompt) for one in requests]
    assert pool.num_running == 0 and pool.step() == []


def test_several_replies_to_one_prompt_compute_it_once(model, pool, sizes):
    how = Decoding(max_new_tokens=6, temperature=1.5, stops=())
    writings = pool.join([Joining(Request(TALK, how, number)) for number in range(3)])
    assert sizes == [60, 1, 1] and [writing.num_cached for writing in writings] == [0, 59, 59]
    assert finished(pool, writings) == [alone(model, TALK, how, number) for number in range(3)]


def test_nothing_joins_where_not_all_can_and_the_others_go_on(model, pool, monkeypatch):
    (first,) = pool.join([Joining(Request(TALK, DECODING))])
    with pytest.raises(FalconerError, match="3 replies are already being generated"):
        pool.join([Joining(Request([number], DECODING)) for number in range(3)])
    whole = fast_running.first_said

    def fails(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(fast_running, "first_said", fails)
    with pytest.raises(torch.OutOfMemoryError):
        pool.join([Joining(Request([number, 5], DECODING)) for number in range(2)])
    monkeypatch.setattr(fast_running, "first_said", whole)
    others = pool.join([Joining(Request([number, 5], DECODING)) for number in range(2)])
    assert finished(pool, [first, *others]) == [alone(model, TALK), alone(model, [0, 5]), alone(model, [1, 5])]


@pytest.fixture(scope="module")
def several(request):
    """A model with adapters of different ranks on different layers, and one on the projection alone."""
    model = model_of(layout=getattr(request, "param", "7b"))
    for seed, (name, rank, targets) in enumerate([("wide", 7, "all-linear"), ("narrow", 3, ["query_key_value"])], 2):
        model.add_adapter(name, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, task_type="CAUSAL_LM"))
        generator = torch.Generator().manual_seed(seed)
        for path, parameter in model.named_parameters():
            if f".{name}." in path:
                parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def with_adapter(model, name, request):
    if name is None:
        with model.disable_adapter():
            return asked(model, [request])[0]
    model.set_adapter(name)
    try:
        return asked(model, [request])[0]
    finally:
        model.set_adapter("default")


def running_with(model, names, **sizes):
    plain = forward_of(model)
    forward = Forward(plain.path, plain.head, names)
    return FastRunning(forward, NONE, **{"num_slots": 4, "num_rows": 6, "row_tokens": 80, **sizes})


ADAPTERS = (None, "default", "wide", "narrow")


@pytest.mark.parametrize("several", LAYOUTS, indirect=True)
def test_each_row_has_its_own_adapter(several):
    running = running_with(several, ADAPTERS[1:])
    requests = [Joining(Request(TALK[:30], DECODING), name) for name in ADAPTERS]
    expected = [with_adapter(several, one.adapter, one.request) for one in requests]
    assert len(set(map(tuple, expected))) == len(ADAPTERS), "they say different things"
    assert finished(running, running.join(requests)) == expected
    # Keys that another adapter has computed are of no use.
    assert [writing.num_cached for writing in running.join(requests)] == [29] * 4


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_replies_join_and_leave_at_random_with_their_own_decoding_and_adapter(several, data):
    running, left, cut = running_with(several, ADAPTERS[1:]), {}, set()
    running.launches_ahead = data.draw(st.booleans())
    for _ in range(data.draw(st.integers(1, 12))):
        free = running.num_slots - running.num_running
        some = data.draw(st.lists(JOINING, max_size=free))
        left |= dict(zip(running.join(some), some, strict=True))
        for _ in range(data.draw(st.integers(0, 4))):
            running.step()
        for writing in [one for one in left if not one.is_done]:
            if data.draw(st.integers(0, 9)) == 0:
                running.leave(writing)
                cut.add(writing)
    while running.num_running:
        running.step()
    for writing, joining in left.items():
        expected = with_adapter(several, joining.adapter, joining.request)
        said = [one.token for one in writing.said]
        assert said == (expected[: len(said)] if writing in cut else expected)


SCOPES = st.sampled_from(["reply", "own", "prompt"])
JOINING = st.builds(
    Joining,
    st.builds(
        Request,
        st.builds(lambda start, size: TALK[start : start + size], st.sampled_from([0, 0, 0, 7]), st.integers(1, 50)),
        st.builds(
            Decoding, max_new_tokens=st.integers(1, 9), temperature=st.sampled_from([0.0, 0.0, 1.3]),
            repetition_penalty=st.sampled_from([1.0, 1.4]), seed=st.integers(0, 3), stops=st.sampled_from([(), (7, 9)]),
            num_logprobs=st.sampled_from([None, 2]), min_p=st.sampled_from([0.0, 0.2]),
            no_repeat_ngram_size=st.sampled_from([0, 1, 3]), repetition_penalty_scope=SCOPES,
            no_repeat_ngram_scope=SCOPES,
        ),
        st.integers(0, 2), st.sampled_from([(), ((0, 1),)]),
    ),
    st.sampled_from(ADAPTERS),
)  # fmt: skip


def test_log_probabilities_are_the_models_own_before_penalty_and_temperature(model, pool):
    how = Decoding(max_new_tokens=5, temperature=2.0, repetition_penalty=1.8, seed=4, stops=(), num_logprobs=3)
    writings = pool.join([Joining(Request(TALK, how)), Joining(Request(TALK[:9], DECODING))])
    finished(pool, writings)
    tokens = [said.token for said in writings[0].said]
    with torch.inference_mode():
        logits = model(torch.tensor([[*TALK, *tokens]])).logits[0, len(TALK) - 1 : -1]
    logprobs = logits.double().log_softmax(1)
    for row, said in zip(logprobs, writings[0].said, strict=True):
        assert said.logprob == pytest.approx(row[said.token].item(), abs=1e-4)
        values, ids = row.topk(3)
        assert [token for token, _ in said.top] == ids.tolist()
        assert [value for _, value in said.top] == pytest.approx(values.tolist(), abs=1e-4)
    assert all(said.logprob is None and said.top == () for said in writings[1].said)
