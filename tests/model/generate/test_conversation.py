"""A conversation's replies against those of a batch, what its cache spares, and that many at once do not mix."""

import itertools
from dataclasses import replace

import pytest
import torch

from decoded import asked, forward_of, listen_to_recordings, model_of
from falcon_tiny import VOCAB
from falconer.errors import FalconerError
from falconer.model.generate import conversation as talking
from falconer.model.generate.conversation import Pool, shared_tokens
from falconer.model.generate.sampling import Decoding, Request

DECODING = Decoding(max_new_tokens=6, stops=())
TALK = [(37 * index + 5) % VOCAB for index in range(60)]
# A conversation goes on, is asked the same again, and starts anew.
PROMPTS = [TALK[:20], TALK[:41], TALK, TALK, TALK[:7] + [3, 4, 5], [9]]
NONE = torch.tensor([], dtype=torch.int64)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture
def pool(model):
    return Pool(forward_of(model), NONE, num_rows=3, row_tokens=80)


def alone(model, prompt, decoding=DECODING, number=0):
    return asked(model, [Request(prompt, decoding, number)])[0]


def said(pool, prompt, decoding=DECODING, owner=1, number=0):
    return list(pool.stream(owner, Request(prompt, decoding, number)))


@pytest.fixture
def sizes(monkeypatch):
    """Tokens of each prompt's pass: what a conversation goes on with."""
    found, whole = [], talking.extend
    monkeypatch.setattr(
        talking, "extend", lambda forward, ids, *others: found.append(len(ids)) or whole(forward, ids, *others)
    )
    return found


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
    for owner in (1, 2, 3):
        said(pool, TALK[:20], owner=owner)
    said(pool, TALK[:20], owner=1)
    said(pool, TALK[:20], owner=4)
    assert sizes == [20, 20, 20, 1, 20]
    sizes.clear()
    for owner in (1, 3, 4, 2):
        said(pool, TALK[:20], owner=owner)
    assert sizes == [1, 1, 1, 20], "the second was given up for the fourth"
    pool.forget(2)
    sizes.clear()
    said(pool, TALK[:20], owner=5)
    assert [said(pool, TALK[:20], owner=owner) for owner in (3, 4)] == [alone(model, TALK[:20])] * 2
    assert sizes == [20, 1, 1], "a row that was given back is taken first"


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
def test_recorded_conversations_on_a_gpu(nf4):
    shape = {"hidden_size": 256, "num_attention_heads": 4, "ffn_hidden_size": 1024, "rank": 16}
    model = model_of(torch.bfloat16, nf4=nf4, device="cuda", **shape)
    from falconer.kernels import fused

    pool = Pool(forward_of(model, fused, fused=nf4), NONE.cuda(), num_rows=3, row_tokens=80)
    first = [said(pool, prompt) for prompt in PROMPTS]
    assert all(len(reply) == 6 for reply in first)
    again = [said(pool, prompt) for prompt in PROMPTS]
    # From the second turn on both see the same prompts in the same state of the cache.
    assert again[1:] == first[1:]
    graphs = dict(pool.slots._graphs)
    others = [said(pool, prompt, owner=2) for prompt in PROMPTS]
    assert others == first and pool.slots._graphs == graphs, "nothing is recorded again for another conversation"
