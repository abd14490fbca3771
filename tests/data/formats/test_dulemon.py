"""DuLeMon, both parts."""

import json
from pathlib import Path
from typing import Any

from corpus_files import FIXTURES, check_bad, counts, said
from falconer.data.sources import load_dialogues


def test_counts_against_another_parse() -> None:
    rows = [json.loads(line) for line in (FIXTURES / "dulemon.jsonl").read_text(encoding="utf-8").splitlines()]
    replies = sum(turn[:3] in ("Bot", "P2:") for row in rows for turn in row["conversation"])
    own = sum(len(row.get("bot_persona", row.get("p2_persona"))) for row in rows)
    keys = ("user_said_persona", "user_no_said_persona", "p1_persona")
    other = sum(len(row.get(key, [])) for row in rows for key in keys)
    loaded = load_dialogues(str(FIXTURES / "dulemon.jsonl"))
    assert counts(loaded) == (len(rows), replies, own, other)
    assert loaded.quirks == {"grounding marks ignored": 2}


def test_labels_and_numbers_are_no_text() -> None:
    one, two, three = load_dialogues(str(FIXTURES / "dulemon.jsonl")).dialogues
    assert one.persona == ("我 会 拉 小提琴", "我 住 在 山上")
    assert one.partner_persona == ("我 开 电车", "我 怕 狗")
    assert said(one)[1] == ("self", "不 忙 ， 你 的 电车 还好 吗 ？")
    assert (two.persona, two.partner_persona) == (("我 喜欢 游泳",), ("我 喜欢 画画",))
    assert (three.persona, said(three)[1]) == (("我会唱歌",), ("self", "早上好"))


def test_bad_rows(tmp_path: Path) -> None:
    good: dict[str, Any] = {"bot_persona": ["B1: a"], "conversation": ["Usr: hi", "Bot: yo"]}
    found = check_bad(
        tmp_path,
        good,
        (good | {"conversation": ["hi", "yo"]}, "conversation[0]"),
        (good | {"conversation": ["Usr: hi"]}, "conversation"),
        (good | {"conversation": ["Usr: hi", 5]}, "conversation[1]"),
        (good | {"user_said_persona": [5]}, "user_said_persona[0]"),
        (good | {"bot_persona": None}, "bot_persona"),
    )
    assert "'hi'; expected 'Usr: ...' or 'Bot: ...'" in found[0]
