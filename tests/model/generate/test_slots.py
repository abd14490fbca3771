"""Slots: a step that is recorded does what it does unrecorded, for whatever is in the slots."""

from contextlib import suppress

import pytest
import torch

from decoded import END, PROMPTS, asked, listen_to_recordings, model_of, ours
from falcon_tiny import GPU_SHAPES, LAYOUTS, VOCAB
from falconer.kernels import fused
from falconer.model.generate import batch
from falconer.model.generate import slots as slots_module
from falconer.model.generate.slots import Slots
from falconer.model.request import Decoding, Request

pytestmark = pytest.mark.usefixtures("one_thread")


def test_replies_go_on_after_a_recording_that_found_no_memory(monkeypatch):
    model = model_of()
    expected, made, failures = ours(model), Slots.__init__, [1]
    listen_to_recordings(monkeypatch)
    recorded = slots_module.recorded

    def scarce(step, device):
        if failures:
            failures.pop()
            raise torch.OutOfMemoryError("a test")
        return recorded(step, device)

    def make(self, *arguments):
        made(self, *arguments)
        self.records, real = True, self.advance

        def advance(num, kind):
            with suppress(torch.OutOfMemoryError):
                real(num, kind)

        self.advance = advance

    monkeypatch.setattr(slots_module, "recorded", scarce)
    monkeypatch.setattr(Slots, "__init__", make)
    assert ours(model) == expected and not failures


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.7}, {"no_repeat_ngram_size": 1}], ids=str)
@pytest.mark.parametrize(("layout", "steps"), [("7b", 1), ("7b", 2), ("7b", 5), ("40b", 2)])
def test_what_a_recording_runs_beforehand_and_late_questions_change_no_reply(options, layout, steps, monkeypatch):
    """As on a GPU, but without one: all slots advance, also empty ones, and some steps come after a reply's end."""
    model, decoding = model_of(layout=layout), Decoding(max_new_tokens=7, **options)
    plain = ours(model)
    # Tokens that end some of the replies at their first token, some in their midst, and some never.
    stops = (END, plain[0][0], plain[1][3])
    expected = ours(model, num_slots=2, stops=stops, decoding=decoding)
    recordings = listen_to_recordings(monkeypatch)
    made = Slots.__init__

    def make(self, *arguments):
        made(self, *arguments)
        self.records = True

    monkeypatch.setattr(Slots, "__init__", make)
    monkeypatch.setattr(batch, "STEPS_UNASKED", steps)
    for num_slots in (2, 3, 50):
        assert ours(model, num_slots=num_slots, stops=stops, decoding=decoding) == expected
    assert len(recordings) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("decoding", [
    Decoding(9), Decoding(9, repetition_penalty=1.3), Decoding(9, temperature=0.8, top_k=40, repetition_penalty=1.3),
    Decoding(9, no_repeat_ngram_size=2, no_repeat_ngram_scope="prompt"), Decoding(9, temperature=0.8, min_p=0.1),
])  # fmt: skip
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_recorded_step_does_what_it_does_unrecorded(nf4, decoding, layout, monkeypatch):
    """Slots are left and entered again, and the last replies are written beside empty slots."""
    shape = GPU_SHAPES[layout] | {"num_hidden_layers": 2, "vocab_size": VOCAB}
    model = model_of(torch.bfloat16, nf4=nf4, device="cuda", rank=16, layout=layout, **shape)
    prompts = [[(n * 37 + 5 * k) % VOCAB for n in range(3 + 5 * k)] for k in range(12)] + PROMPTS
    expected = ours(model, prompts, 8, decoding=decoding, ops=fused, fused=nf4)
    stops = (END, expected[0][0], expected[1][3], expected[2][5])
    recorded = ours(model, prompts, 8, stops=stops, decoding=decoding, ops=fused, fused=nf4)
    monkeypatch.setattr(Slots, "advance", Slots.step)
    assert ours(model, prompts, 8, stops=stops, decoding=decoding, ops=fused, fused=nf4) == recorded
    assert len({len(reply) for reply in recorded}) > 2


@pytest.mark.gpu
def test_what_was_recorded_before_serves_a_request_that_needs_more_than_those_before_it():
    shape = GPU_SHAPES["7b"] | {"num_hidden_layers": 2, "vocab_size": VOCAB}
    model = model_of(torch.bfloat16, device="cuda", rank=16, **shape)
    late = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2}
    requests = [Request(PROMPTS[1][:50], Decoding(5, stops=())), Request(PROMPTS[0], Decoding(9, stops=(), **late))]
    alone = [asked(model, [request], 1, ops=fused)[0] for request in requests]
    assert asked(model, requests, 1, ops=fused) == alone
