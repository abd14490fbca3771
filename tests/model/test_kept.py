"""What an engine keeps: made once, renewed where the weights have changed, shared by all who multiply alike."""

import pytest
import torch

from falcon_tiny import tiny_falcon
from falconer.errors import FalconerError
from falconer.model import kept as keeping
from falconer.model.falcon.four_bit import Products
from falconer.model.kept import Kept
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
    assert [len(adapters) for adapters in kept.forward(True, is_few=True)._adapters] == [0, 0]
    assert [len(adapters) for adapters in kept.forward(False, is_few=True)._adapters] == [1, 1]


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
    with pytest.raises(FalconerError, match="nothing left to halve"):
        kept.halve("replies", is_one=False, batch="a batch of 8")


def test_nothing_is_made_once_it_is_closed(model):
    kept = kept_of(model)
    kept.pool(False)
    kept.close()
    assert not (kept._paths or kept._sides or kept._products)
    for make in (lambda: kept.path(is_few=True), lambda: kept.pool(False), lambda: kept.generic(True), kept.check_open):
        with pytest.raises(RuntimeError, match="closed"):
            make()
