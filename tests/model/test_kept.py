"""What an engine keeps: made once, renewed where the weights have changed, shared by all who multiply alike."""

import threading

import pytest
import torch
from peft import LoraConfig

from falcon_tiny import tiny_falcon
from falconer.errors import FalconerError
from falconer.model import kept as keeping
from falconer.model.falcon.four_bit import Products
from falconer.model.kept import Kept, conversations_within, slots_and_rows
from falconer.model.lora import trainable_tensors, without_adapter

pytestmark = pytest.mark.usefixtures("one_thread")


def kept_of(model, num_conversations=3):
    return Kept(model.eval(), None, torch.tensor([], dtype=torch.int64), 11, 50, num_conversations)


@pytest.fixture
def model():
    return tiny_falcon(torch.float32)


def test_each_thing_is_made_once_for_the_adapter_on_and_off(model):
    kept = kept_of(model)
    assert kept.path(is_few=True) is kept.path(is_few=False), "whole weights are multiplied in one way"
    assert kept.forward(False, is_few=True) is kept.forward(False, is_few=False)
    assert kept.forward(True, is_few=True) is not kept.forward(False, is_few=True)
    assert kept.pool(True) is kept.pool(True) is not kept.pool(False)
    assert kept.generic(True) is kept.generic(True) is not kept.generic(False)
    assert [len(loras) for loras in kept.forward(True, is_few=True)._loras] == [0, 0]
    assert [len(loras) for loras in kept.forward(False, is_few=True)._loras] == [1, 1]


def test_few_rows_may_be_multiplied_in_a_way_of_their_own(model, monkeypatch):
    asked = []

    def choose(_, *, is_few, is_cached):
        asked.append((is_few, is_cached))
        return Products(cache_weights=not is_few, fused=is_few, why="")

    monkeypatch.setattr(keeping, "choose_products", choose)
    kept = kept_of(model)
    assert kept.path(is_few=False) is not kept.path(is_few=True)
    assert kept.products(is_few=True).fused
    assert asked == [(False, False), (True, True)], "each once; the second knows what is cached already"


def test_training_and_another_adapter_renew_it(model):
    kept = kept_of(model)
    path, pool, base = kept.path(is_few=True), kept.pool(False), kept.pool(True)
    with without_adapter(model):
        off = kept.pool(False)
        assert off is not pool and kept.pool(True) is base and kept.path(is_few=True) is path
    assert kept.pool(False) is not off
    with torch.no_grad():
        next(iter(trainable_tensors(model).values())).mul_(2)
    assert kept.pool(True) is not base and kept.path(is_few=True) is not path


def test_adapters_that_the_fast_path_does_not_know_are_refused(model):
    kept = kept_of(model)
    first = kept.forward(False, is_few=True)
    model.merge_adapter()
    with pytest.raises(FalconerError, match="has changed since.*merged into the base.*Open another engine"):
        kept.forward(False, is_few=True)
    model.unmerge_adapter()
    assert kept.forward(False, is_few=True) is not first
    model.add_adapter("other", LoraConfig(r=4, target_modules=["query_key_value"]))
    before = kept.generic(False)
    model.base_model.set_adapter(["default", "other"])
    assert kept.generic(False) is not before
    with pytest.raises(FalconerError, match="2 adapters are active at once"):
        kept.pool(False)


def test_no_weights_take_the_address_of_those_that_were_before(model):
    kept = kept_of(model)
    path = kept.path(is_few=True)
    before = [parameter.data_ptr() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.data = torch.zeros(0)
    for parameter, address in zip(model.parameters(), before, strict=True):
        parameter.data = torch.ones(4, 4)
        assert parameter.data_ptr() not in before, address
    kept.close()
    assert path and not kept._storages


def test_only_one_thread_at_a_time_switches_the_adapters(model):
    kept, seen = kept_of(model), []
    layer = model.base_model.model.transformer.h[0].self_attention.query_key_value

    def look():
        with kept.state(False):
            seen.append(layer.disable_adapters)

    with kept.state(True):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(0.1)
        assert layer.disable_adapters and not seen
    thread.join()
    assert seen == [False]


def test_there_are_fewer_rows_where_memory_is_short(model, monkeypatch):
    assert len(kept_of(model).pool(False)._rows) == 3
    monkeypatch.setattr(keeping.runtime, "free_gib", lambda _: 50 * 512 * 2 * 4 * 4 / 2**30)
    assert len(kept_of(model, 99).pool(False)._rows) == 4
    monkeypatch.setattr(keeping.runtime, "free_gib", lambda _: 0.0)
    assert len(kept_of(model).pool(False)._rows) == 1


def test_each_kind_of_work_is_halved_for_itself_and_told_once(model):
    kept, told = kept_of(model), []
    kept.on_note = told.append
    assert kept.share("replies") == 1
    for _ in range(3):
        kept.halve("replies", is_one=False, batch="a batch of 8")
    assert (kept.share("replies"), kept.share("candidates")) == (0.125, 1)
    assert told == kept.notes and len(told) == 1
    with pytest.raises(
        FalconerError, match=r"Out of memory \(replies\): one reply did not fit on the CPU.*model\.device=cpu"
    ):
        kept.halve("replies", is_one=True, batch="one reply")
    for _ in range(keeping.MOST_HALVINGS - 3):
        kept.halve("replies", is_one=False, batch="a batch of 8")
    with pytest.raises(FalconerError, match="can't be divided further"):
        kept.halve("replies", is_one=False, batch="a batch of 8")


def test_nothing_is_made_once_it_is_closed(model):
    kept = kept_of(model)
    kept.pool(False)
    kept.close()
    assert not (kept._paths or kept._sides or kept._products)
    for make in (lambda: kept.path(is_few=True), lambda: kept.pool(False), lambda: kept.generic(True), kept.check_open):
        with pytest.raises(RuntimeError, match="closed"):
            make()


def test_a_running_batch_is_smaller_where_memory_is_short() -> None:
    """A quarter of what is free is for caches; there are four conversations for each slot if they fit."""
    assert conversations_within(1.0, 2**20) == 256 and conversations_within(0.001, 2**30) == 1
    assert slots_and_rows(64, 1000) == (64, 256)
    assert slots_and_rows(64, 100) == (64, 100) and slots_and_rows(64, 10) == (10, 10)
