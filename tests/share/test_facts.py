"""What a run says of its model, and that no path of its machine is among it."""

import pytest

from fake_hub import BASE
from falconer.errors import FalconerError
from falconer.run.folder import Chat, adapter_hashes, read_config, read_metrics, write_chat
from falconer.share.facts import check_adapter_record, leaked, public, read_facts
from falconer.share.origin import find_origin


@pytest.fixture
def facts(run):
    return read_facts(run, find_origin(read_config(run), base_model=BASE))


def test_training_is_what_the_run_recorded(facts):
    training = facts.training
    assert (training.steps, training.planned, training.num_dialogues, training.num_ranks) == (60, 60, 24, 1)
    assert (training.state, training.precision, training.path) == ("finished", "fp32", "fast")
    assert training.seconds > 0 and training.best_loss > 0 and training.num_parameters > 0
    assert "platform" not in facts.versions and facts.versions["torch"]


def test_without_a_chat_the_first_test_dialogue_is_shown(facts):
    assert len(facts.talk.exchanges) >= 2 and "first dialogue" in facts.talk.how


def test_a_chat_of_these_weights_is_shown(run, tmp_path):
    import shutil

    shutil.copytree(run, tmp_path / "run")
    origin = find_origin(read_config(run), base_model=BASE)
    write_chat(tmp_path / "run", Chat(("i sing .",), (("hi ?", "hello"),), adapter_hashes(run)))
    assert read_facts(tmp_path / "run", origin).talk.exchanges == (("hi ?", "hello"),)
    write_chat(tmp_path / "run", Chat(("i sing .",), (("hi ?", "hello"),), {"adapter/x": "0"}))
    assert "first dialogue" in read_facts(tmp_path / "run", origin).talk.how


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("data.test: '/home/ann/x/test.jsonl' has moved", "data.test: 'test.jsonl' has moved"),
        ("see ../runs/a b", "see a b"), ("~/secret/data.tsv.", "data.tsv."), ("./a/b", "b"),
        ("https://huggingface.co/alice/x", "https://huggingface.co/alice/x"), ("km/h, and/or 1/2", "km/h, and/or 1/2"),
        ("nothing", "nothing"),
    ],
)  # fmt: skip
def test_of_a_path_its_last_part_remains(text, without):
    assert public(text) == without


def test_what_test_and_training_share(run):
    assert leaked(read_metrics(run)) == "0 of 24 dialogues, 0 of 24 personas, 0 of 24 replies".replace(
        "of 24 replies", leaked(read_metrics(run)).rpartition(", ")[2].partition(" ")[2]
    )
    assert leaked(None) == ""


def test_an_adapter_of_another_program_is_refused(tmp_path):
    with pytest.raises(FalconerError, match="has no falconer.json, which says what the prompts look like"):
        check_adapter_record(tmp_path)
