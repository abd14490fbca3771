"""Make the embedded sample of Persona-Chat: train, valid and test that share no persona and no dialogue.

    python recipes/persona-chat-sample/make.py TRAIN VALID_SELF VALID_BOTH [OUT_FOLDER]

TRAIN: 2,344 dialogues of Persona-Chat's training split, JSON lines with the keys id, source, persona_speaker ("A"
speaks first), persona, turns; a quarter of the split, as found in two public repositories (see the README beside the
result). VALID_SELF: ConvAI2's valid_self_original.txt, with candidates. VALID_BOTH: its
valid_both_original_no_cands.txt, the same dialogues with the personas of both. The same inputs give the same bytes.
"""

import gzip
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

from falconer.data.sources import load_dialogues, write_dialogues
from falconer.data.splits import persona_names, sentence_set
from falconer.records import Dialogue, Turn

SEED = 2018
NUM_TEST_DIALOGUES = 200
NUM_VALID_DIALOGUES = 60
OUT = Path(__file__).parents[2] / "src" / "falconer" / "assets" / "persona-chat-sample"


def read_train(path: str) -> list[Dialogue]:
    """Read TRAIN; the owner of the persona becomes "self"."""
    dialogues = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            turns = tuple(
                Turn("self" if speaker == row["persona_speaker"] else "partner", text.strip())
                for speaker, text in zip("AB" * len(row["turns"]), row["turns"], strict=False)
            )
            # One of the two repositories dropped the full stop that ends every persona line of ConvAI2.
            stop = "." if row["source"] == "rcdg" else ""
            dialogues.append(Dialogue(row["id"], tuple(text.strip() + stop for text in row["persona"]), turns))
    return dialogues


def read_valid(self_path: str, both_path: str) -> list[Dialogue]:
    """Read ConvAI2's validation split with candidates and with the personas of both speakers."""
    with_candidates, with_both = load_dialogues(self_path).dialogues, load_dialogues(both_path).dialogues
    dialogues = []
    for number, (dialogue, both) in enumerate(zip(with_candidates, with_both, strict=True), start=1):
        if [turn.text for turn in dialogue.turns] != [turn.text for turn in both.turns]:
            raise SystemExit(f"dialogue {number} differs between {self_path} and {both_path}")
        dialogues.append(replace(dialogue, id=f"convai2-valid-{number:04d}", partner_persona=both.partner_persona))
    return dialogues


def choose(valid: list[Dialogue], train: list[Dialogue], rng: random.Random) -> tuple[list[Dialogue], list[Dialogue]]:
    """Return (valid, test): dialogues whose two personas both belong to that split.

    Personas are drawn one by one until a split is large enough; dialogues between the splits are dropped. A persona
    that training shows too, or one with half of its sentences, is not drawn at all.
    """
    names = persona_names([*train, *valid])
    owners = [(names[sentence_set(d.persona)], names[sentence_set(d.partner_persona)]) for d in valid]
    trained = {names[sentence_set(dialogue.persona)] for dialogue in train}
    free = sorted({name for pair in owners for name in pair} - trained)
    rng.shuffle(free)
    chosen = []
    for wanted in (NUM_VALID_DIALOGUES, NUM_TEST_DIALOGUES):
        drawn: set[int] = set()
        found: list[Dialogue] = []
        while len(found) < wanted:
            drawn.add(free.pop())
            found = [dialogue for dialogue, pair in zip(valid, owners, strict=True) if drawn.issuperset(pair)]
        chosen.append(found)
    return chosen[0], chosen[1]


def main() -> None:
    if len(sys.argv) not in (4, 5):
        raise SystemExit(__doc__)
    out = Path(sys.argv[4]) if len(sys.argv) == 5 else OUT
    train = read_train(sys.argv[1])
    rng = random.Random(SEED)
    valid, test = choose(read_valid(sys.argv[2], sys.argv[3]), train, rng)
    for split, dialogues in (("train", train), ("valid", valid), ("test", test)):
        # In random order, so that the first n are a random sample.
        rng.shuffle(dialogues)
        write_dialogues(dialogues, out / f"{split}.jsonl.gz")
        replies = sum(turn.speaker == "self" for dialogue in dialogues for turn in dialogue.turns)
        print(f"{split}: {len(dialogues)} dialogues, {replies} replies")


if __name__ == "__main__":
    main()
