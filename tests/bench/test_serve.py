"""Are the figures of a load those that follow from its answers, and does the whole command measure a real server?"""

import json
from pathlib import Path
from typing import Any

import pytest

from command_line import falconer, ok
from falconer.bench import serve
from falconer.bench.serve_client import Answer
from falconer.bench.serve_load import Done, Talk
from falconer.errors import FalconerError
from falconer.records import Dialogue, Turn


def done(sent_s: float, *pieces: tuple[float, int], num_tokens: int = 0, **fields: Any) -> Done:
    usage = {"prompt_tokens": 50, "completion_tokens": num_tokens, "prompt_tokens_details": {"cached_tokens": 20}}
    ended_s = pieces[-1][0] if pieces else sent_s + 0.1
    return Done("one", 0, 0, 0, Answer(sent_s, 200, "", list(pieces), usage=usage, ended_s=ended_s, **fields))


def test_figures_count_what_came_within_the_time() -> None:
    loads = [
        # Half of its characters came before the time, so half of its 8 tokens count.
        done(8.0, (9.0, 10), (10.5, 10), num_tokens=8),
        done(11.0, (11.1, 4), (12.0, 4), num_tokens=10),
        done(12.0, (12.3, 4), (12.6, 4), num_tokens=4),
        # Sent within the time, ended after it.
        done(13.5, (13.9, 1), (14.5, 3), num_tokens=8),
        done(12.0, problem="HTTP 429"),
    ]
    row = serve.row_of("mini", 1, 4, loads, (10.0, 14.0), 20.0, (None, 1.5))
    assert row.requests == 3 and row.lost == 1 and row.seconds == 4.0
    assert row.tok_s == pytest.approx((4 + 10 + 4 + 2) / 4) and row.of_offline == pytest.approx(0.25)
    assert row.first_ms == pytest.approx((300, 400, 400))
    assert row.token_ms == pytest.approx(100)
    assert row.reply_tokens == pytest.approx(22 / 3) and row.prompt_tokens == 50 and row.cached == pytest.approx(0.4)
    flat = row.flat()
    assert (flat["first_ms"], flat["first_ms_p90"], flat["first_ms_p99"]) == (300.0, 400.0, 400.0)
    assert json.loads(json.dumps(flat)) == flat


def test_a_load_without_an_answer_is_an_error() -> None:
    with pytest.raises(FalconerError, match=r"With 4 streams, no request was answered within 4 s: HTTP 503\."):
        serve.row_of("mini", 1, 4, [done(11.0, problem="HTTP 503")], (10.0, 14.0), None, (None, 1.5))


def test_conversations_are_those_that_the_partner_begins() -> None:
    speakers = ("partner", "self") * 6
    turns = tuple(Turn(speaker, f"i said {number} !") for number, speaker in enumerate(speakers))  # type: ignore[arg-type]
    good = Dialogue("a", ("i like dogs .",), turns)
    others = [
        Dialogue("b", ("i like dogs .",), turns[:10]), Dialogue("c", (), turns),
        Dialogue("d", ("i like dogs .",), turns[1:] + turns[:1]),
    ]  # fmt: skip
    (talk,) = serve.talks_of([good, *others])
    assert talk == Talk(
        ("I like dogs.",), tuple(f"I said {number}!" for number in range(0, 12, 2)),
        tuple(f"I said {number}!" for number in range(1, 11, 2)),
    )  # fmt: skip
    with pytest.raises(FalconerError, match="None of the 3 dialogues has a persona, and 6 turns"):
        serve.talks_of(others)


def test_the_command_measures_a_real_server(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    result = ok(
        "bench", "serve", "--shape", "tiny", "--streams", "2", "--adapters", "2", "--seconds", "6", "--split", "test",
        "--out", str(out),
    )  # fmt: skip
    content = json.loads(out.read_text(encoding="utf-8"))
    assert [(row["adapters"], row["streams"], row["lost"]) for row in content["rows"]] == [(2, 2, 0)]
    for row in content["rows"]:
        assert 1 < row["reply_tokens"] <= 32 and 0 < row["cached"] < 1 and row["tok_s"] > 0
        assert 0 < row["first_ms"] <= row["first_ms_p99"] and row["of_offline"] > 0
    assert len(content["rates"]) == 2 and all(rate > 0 for rate in content["rates"].values())
    assert "of engine" in result.out and result.err.count("random tiny, NF4") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--streams", "4,x"), "--streams 4,x is not a list of numbers from 1 to 4,096. For example: --streams 1,16."),
        (("--adapters", "0"), "--adapters 0 is not a list of numbers from 1 to 4,096. For example: --adapters 1,16."),
        (("--model", "a", "--run", "b"), "--model and --run are both given. Use one of them."),
        (("--quantization", "nf3"), "--quantization nf3 is not allowed. Allowed: nf4, none."),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused_at_once(arguments: tuple[str, ...], message: str) -> None:
    result = falconer("bench", "serve", *arguments)
    assert (result.code, result.err) == (2, f"falconer: {message}\n")
