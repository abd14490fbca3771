"""Train falcon-mini's tokenizer: byte-level BPE set up like Falcon's own, on the training part of the corpora.

    python recipes/falcon-mini/train_tokenizer.py --corpora CORPORA --out src/falconer/assets/falcon-mini

The corpora are those of corpora.py, without what is held out.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from corpora import CORPORA, cleaned, documents, is_held_out
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"
PROSE_CHARACTERS = 15_000_000  # of each prose corpus: merges should fit conversation first


def text(folder: Path) -> Iterator[str]:
    """Yield the training part of every corpus, line by line, without the "A: " / "B: " marks."""
    for corpus in CORPORA:
        seen = 0
        for document in cleaned(documents(folder, corpus), corpus):
            if is_held_out(document, corpus):
                continue
            for line in document.splitlines():
                yield line[3:] if corpus.kind == "dialogue" else line
            seen += len(document)
            if corpus.kind == "prose" and seen > PROSE_CHARACTERS:
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder with the *.txt.zst files")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer.json and tokenizer_config.json")
    parser.add_argument("--vocab-size", type=int, default=10_240)
    args = parser.parse_args()

    tokenizer = Tokenizer(models.BPE())
    # Falcon splits punctuation off first; in so small a vocabulary " ," and "'s" are worth a token each: we don't.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=args.vocab_size,
        min_frequency=2,
        special_tokens=[END],  # id 0
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes, so every text can be encoded
        show_progress=False,
    )
    tokenizer.train_from_iterator(text(args.corpora), trainer)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"))
    config = {
        "add_prefix_space": False,
        "bos_token": END,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 2048,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (args.out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{tokenizer.get_vocab_size()} entries, {END} = {tokenizer.token_to_id(END)}")


if __name__ == "__main__":
    main()
