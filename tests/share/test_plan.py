"""From a run to the folder for the hub: nothing of this machine in it, also of a copied run, and locked meanwhile."""

import json
import os

import pytest
import yaml
from safetensors.torch import load_file

from fake_hub import BASE, REPOSITORY
from falconer.errors import FalconerError
from falconer.files.locks import lock_run
from falconer.model.adapter_files import check_adapter_files
from falconer.run.folder import read_config
from falconer.share import folder as folders
from falconer.share.card import Benchmark
from falconer.share.origin import find_origin
from falconer.share.plan import check_folder, make_folder, plan_share

FILES = {
    "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "falconer.json",
    "loss_curve.png", "manifest.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def origin_of(run, **given):
    return find_origin(read_config(run), **{"base_model": BASE, "license": "mit", **given})


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_the_folder_has_what_others_need_and_passes_every_check(copied, small):
    plan = plan_share(copied, REPOSITORY, origin_of(copied))
    assert not (copied / "share").exists(), "planning writes nothing"
    make_folder(plan)
    found = content(plan.folder)
    assert set(found) == FILES == set(plan.contents.sizes)
    assert {name: len(text) for name, text in found.items()} == plan.contents.sizes
    assert [one.verdict for one in check_folder(plan)] == ["good"] * 4
    made = json.loads(found["adapter_config.json"])
    assert made["base_model_name_or_path"] == BASE and made["r"] == 16
    assert json.loads(found["falconer.json"])["base"] == {"quantization": "none", "max_tokens": 1024}
    weights = load_file(plan.folder / "adapter_model.safetensors")
    assert weights.keys() == load_file(copied / "adapter" / "adapter_model.safetensors").keys()
    for name, text in found.items():
        for trace in (str(small.model), str(small.train), str(copied), str(copied.parent), os.path.expanduser("~/")):
            assert trace.encode() not in text, (name, trace)


def test_who_loads_the_folder_learns_of_a_changed_bit(copied):
    plan = plan_share(copied, REPOSITORY, origin_of(copied))
    make_folder(plan)
    check_adapter_files(plan.folder)
    for name in FILES - {"README.md", "loss_curve.png"}:
        path = plan.folder / name
        before = path.read_bytes()
        path.unlink()  # it may be a second name of the run's own file
        path.write_bytes(before[:-2] + bytes([before[-2] ^ 1]) + before[-1:])
        with pytest.raises(FalconerError, match="is damaged"):
            check_adapter_files(plan.folder)
        path.write_bytes(before)
    check_adapter_files(plan.folder)


def test_the_same_run_gives_the_same_bytes_anywhere(run, copied):
    plans = [plan_share(one, REPOSITORY, origin_of(one)) for one in (run, copied)]
    assert plans[0].card == plans[1].card
    assert plans[0].contents.written == plans[1].contents.written


def test_a_folder_that_is_the_base_needs_its_name(run):
    with pytest.raises(FalconerError, match="folder of this machine, which nobody else has.*--base-model OWNER/NAME"):
        find_origin(read_config(run))


def test_it_waits_for_nobody_who_works_in_the_run(copied):
    plan = plan_share(copied, REPOSITORY, origin_of(copied))
    with lock_run(copied), pytest.raises(FalconerError, match="is in use"):
        make_folder(plan)
    assert not (copied / "share").exists()


@pytest.mark.parametrize("number", range(0, 9, 2))
def test_a_fault_while_it_is_written_leaves_the_old_folder(copied, monkeypatch, number):
    plan = plan_share(copied, REPOSITORY, origin_of(copied))
    make_folder(plan)
    old = content(plan.folder)
    newer = plan_share(copied, REPOSITORY, origin_of(copied, license="apache-2.0"))
    left = number
    kept_link, kept_write = folders._link, folders.Path.write_bytes

    def one_less(work, *arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return work(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "_link", lambda *arguments: one_less(kept_link, *arguments))
        patch.setattr(folders.Path, "write_bytes", lambda *arguments: one_less(kept_write, *arguments))
        if number < len(FILES):
            with pytest.raises(FalconerError, match="full|space"):
                make_folder(newer)
            assert content(plan.folder) == old
        else:
            make_folder(newer)
    assert [path.name for path in (copied / "share").iterdir()] == ["adapter"], "nothing is left over"
    make_folder(newer)
    assert b"license: apache-2.0" in content(plan.folder)["README.md"]


def test_figures_of_other_weights_are_refused(copied):
    (copied / "adapter" / "manifest.json").unlink()
    (copied / "adapter" / "adapter_model.safetensors").write_bytes(b"those of a later training")
    with pytest.raises(FalconerError, match="figures of .* are those of other weights.*Evaluate again"):
        plan_share(copied, REPOSITORY, origin_of(copied))


def test_a_run_without_an_evaluation_says_so(copied):
    for path in [*copied.glob("predictions-*"), copied / "metrics.json", copied / "evaluation.json"]:
        path.unlink()
    plan = plan_share(copied, REPOSITORY, origin_of(copied))
    assert "This model has not been evaluated." in plan.card and "model-index" not in plan.card
    assert any("falconer evaluate --run" in note for note in plan.notes)
    assert "Not measured: the run has not been evaluated" in plan.card


def test_what_is_unknown_is_said_and_not_invented(run):
    plan = plan_share(run, REPOSITORY, find_origin(read_config(run), base_model=BASE))
    assert "license: unknown" in plan.card
    assert [note for note in plan.notes if note.startswith("unknown")] == [
        "unknown: the licence of the shared weights (--license)",
        "unknown: the licence of the training data (--data-license)",
        "unknown: the licence of the base model (--base-license)",
    ]


def test_figures_of_benchmarks_go_where_the_hub_reads_them(run, planned):
    assert ".eval_results/falconer.yaml" not in planned.contents.written
    plan = plan_share(run, REPOSITORY, origin_of(run), benchmarks=(Benchmark("alice/persona-test", "default", "f1"),))
    (row,) = yaml.safe_load(plan.contents.written[".eval_results/falconer.yaml"])
    assert row["dataset"] == {"id": "alice/persona-test", "task_id": "default"}
    assert isinstance(row["value"], float) and row["source"]["url"] == f"https://huggingface.co/{REPOSITORY}"
    assert row["notes"].startswith("F1") and "greedy" in row["notes"]


@pytest.mark.parametrize(("what", "command"), [("merged", "merge"), ("gguf", "gguf")])
def test_an_export_must_have_been_written_and_certified(run, tmp_path, what, command):
    with pytest.raises(FalconerError, match=f"needs an export. Write it with falconer {command} --run"):
        plan_share(run, REPOSITORY, origin_of(run), what=what)
    with pytest.raises(FalconerError, match="has no certificate"):
        plan_share(run, REPOSITORY, origin_of(run), what=what, exports=[tmp_path])
