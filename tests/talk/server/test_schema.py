"""The schema: schemathesis finds no answer that it does not declare, no good request refused, no bad one accepted."""

import os
import subprocess
import sys
from pathlib import Path

import served_schema
from falconer.talk.server.schema import responses
from served import serving
from served_schema import fitting, in_order


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """With all of its checks; by hand, `-n 300` runs 2,000 cases and more."""
    key = "secret-key"
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        "-c",
        "all",
        "--phases=examples,coverage,fuzzing",
        "-n",
        "8",
    ]
    with serving(key=key) as running:
        header = f"-HAuthorization: Bearer {key}"
        done = subprocess.run(
            [*command, header, "--seed=17", "--no-color", f"{running.url}/openapi.json"], cwd=tmp_path, text=True,
            env=os.environ | {"SCHEMATHESIS_HOOKS": served_schema.__file__}, capture_output=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Selected: 6/6" in done.stdout and "No issues found" in done.stdout


def test_the_hook_puts_messages_in_order_and_changes_nothing_else() -> None:
    roles = ["developer", "assistant", "system", "user", "user"]
    body = {"model": "tuned", "messages": [{"role": role, "content": role} for role in roles]}
    ordered = in_order(body)["messages"]
    assert [one["role"] for one in ordered] == ["developer", "assistant", "user", "assistant", "user"][:1] + [
        "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    assert [one["content"] for one in ordered] == roles
    for other in (None, [], {}, {"messages": []}, {"messages": [{"role": "tool"}]}, {"messages": [3]}):
        assert in_order(other) == other


def test_the_hook_shortens_what_would_not_fit() -> None:
    part = {"type": "text", "text": "a" * 50}
    messages = [{"content": "a" * 50}, {"content": [part, part, part]}, {"content": []}, {"content": 3}, 4]
    cut = fitting({"max_tokens": 200, "max_completion_tokens": 10**6, "prompt": "b" * 50, "messages": messages})
    assert (cut["max_tokens"], cut["max_completion_tokens"], len(cut["prompt"])) == (64, 10**6, 40)
    first, second, *others = cut["messages"]
    assert len(first["content"]) == 40 and [len(one["text"]) for one in second["content"]] == [40, 40]
    assert others == messages[2:] and fitting([1]) == [1]


def test_each_status_is_declared_with_its_body() -> None:
    found = responses(None, (404, 429), text="text/plain")
    assert set(found) == {200, 404, 429} and set(found[200]["content"]) == {"text/plain"}
    assert found[429]["headers"]["Retry-After"]["schema"]["minimum"] == 1
