"""Pre-train falcon-mini from scratch on the token files of prepare.py; write a Hugging Face folder and a record.

    python recipes/falcon-mini/pretrain.py --data DATA --out MODEL --record recipes/falcon-mini/results.json

The network is written out below (Falcon-7B's layout, parameters under their Hugging Face names) because the stock one
does not reach the fast attention kernels. Documents are packed one behind the other; attention crosses their borders.
At the end the saved folder is loaded with transformers, and both networks must give the same logits.
"""

import argparse
import json
import lzma
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

END = 0  # <|endoftext|>: opens every document, as bos


@dataclass(frozen=True)
class Settings:
    """What a run is made of. Rates are for Muon with its updates scaled to AdamW's size, and AdamW for the rest."""

    vocab_size: int = 10_240
    hidden_size: int = 384
    num_layers: int = 9
    num_heads: int = 6
    row_tokens: int = 1024
    batch_rows: int = 64
    steps: int = 6500
    warmup_steps: int = 100
    decay_share: float = 0.6  # of the steps, with a linearly falling rate at the end
    matrix_rate: float = 4e-3
    other_rate: float = 4e-3
    weight_decay: float = 0.1
    dropout: float = 0.15  # behind each block, as Falcon's hidden_dropout
    dialogue_share: float = 0.5  # of the rows before the rate falls ...
    dialogue_share_end: float = 0.7  # ... and at the end; linear in between
    seed: int = 17


class Attention(nn.Module):
    """Falcon's attention: N query heads, one key and one value head, rotary positions, no bias."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.num_heads, self.head_size = s.num_heads, s.hidden_size // s.num_heads
        self.query_key_value = nn.Linear(s.hidden_size, s.hidden_size + 2 * self.head_size, bias=False)
        self.dense = nn.Linear(s.hidden_size, s.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv = self.query_key_value(x_BTD).view(B, T, self.num_heads + 2, self.head_size).transpose(1, 2)
        qk, v = qkv[:, :-1], qkv[:, -1:]
        first, second = qk.chunk(2, dim=-1)
        qk = (qk * cos + torch.cat((-second, first), dim=-1) * sin).to(v.dtype)
        q = qk[:, :-1]
        k, v = (t.expand(B, self.num_heads, T, self.head_size) for t in (qk[:, -1:], v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dense(out.transpose(1, 2).reshape(B, T, D))


class Mlp(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(s.hidden_size, 4 * s.hidden_size, bias=False)
        self.dense_4h_to_h = nn.Linear(4 * s.hidden_size, s.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(x)))


class Block(nn.Module):
    """x + attention(norm(x)) + mlp(norm(x)): both branches read one LayerNorm."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(s.hidden_size, eps=1e-5)
        self.self_attention = Attention(s)
        self.mlp = Mlp(s)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = self.input_layernorm(x)
        return x + self.dropout(self.self_attention(y, cos, sin) + self.mlp(y))


class Decoder(nn.Module):
    """Token embedding, the blocks and the last norm."""

    cos: Tensor
    sin: Tensor

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(s.vocab_size, s.hidden_size)
        self.h = nn.ModuleList(Block(s) for _ in range(s.num_layers))
        self.ln_f = nn.LayerNorm(s.hidden_size, eps=1e-5)
        size = s.hidden_size // s.num_heads
        angles = torch.outer(torch.arange(s.row_tokens), 10_000.0 ** (-torch.arange(0, size, 2) / size)).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids_BT: Tensor) -> Tensor:
        x_BTD, T = self.word_embeddings(ids_BT), ids_BT.shape[1]
        for block in self.h:
            x_BTD = block(x_BTD, self.cos[:T], self.sin[:T])
        return self.ln_f(x_BTD)


class Falcon(nn.Module):
    """The decoder with its tied head."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.transformer = Decoder(s)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return the logits [B, T, V]."""
        return F.linear(self.transformer(ids_BT), self.transformer.word_embeddings.weight)

    def loss(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the negative log-likelihood of each target, [B * T], in nats."""
        logits = self(ids_BT)
        return F.cross_entropy(logits.float().flatten(0, 1), targets_BT.flatten(), reduction="none")


def read(data: Path, corpus: str, part: str) -> np.ndarray:
    """Return the token ids of one corpus, uint16."""
    with lzma.open(data / f"{corpus}.{part}.npy.xz") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def times(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return how often each item is read in one pass: its weight, the fraction of it decided by chance."""
    return (weights.astype(np.int64) + (rng.random(len(weights)) < weights % 1)).astype(np.int64)


def dialogue_rows(
    corpora: list[tuple[float, np.ndarray]], num_rows: int, tokens: int, rng: np.random.Generator
) -> np.ndarray:
    """Return rows [num_rows, tokens + 1] cut from passes over whole conversations, newly shuffled for each pass."""
    documents, weights = [], []
    for weight, ids in corpora:
        found = np.split(ids, np.flatnonzero(ids == END)[1:])
        documents += found
        weights += [weight] * len(found)
    pieces: list[np.ndarray] = []
    need = num_rows * tokens + 1
    while need > 0:
        order = np.repeat(np.arange(len(weights)), times(np.array(weights), rng))
        for number in rng.permutation(order):
            pieces.append(documents[number])
            need -= len(documents[number])
            if need <= 0:
                break
    stream = np.concatenate(pieces)[: num_rows * tokens + 1]
    return np.lib.stride_tricks.sliding_window_view(stream, tokens + 1)[::tokens]


def prose_rows(
    corpora: list[tuple[float, np.ndarray]], num_rows: int, tokens: int, rng: np.random.Generator
) -> np.ndarray:
    """Return rows [num_rows, tokens + 1] cut from books, from a new random offset in each pass, in random order."""
    passes: list[np.ndarray] = []
    while sum(map(len, passes)) < num_rows:
        rows = []
        for weight, ids in corpora:
            start = int(rng.integers(0, min(tokens, len(ids) - tokens)))
            windows = np.lib.stride_tricks.sliding_window_view(ids[start:], tokens + 1)[::tokens]
            rows.append(np.repeat(windows, times(np.full(len(windows), weight), rng), axis=0))
        passes.append(rng.permutation(np.concatenate(rows)))
    return np.concatenate(passes)[:num_rows]


def shares(s: Settings) -> np.ndarray:
    """Return the number of dialogue rows in the batch of each step."""
    fall = np.clip((np.arange(s.steps) / s.steps - (1 - s.decay_share)) / s.decay_share, 0, 1)
    return np.rint(s.batch_rows * (s.dialogue_share + (s.dialogue_share_end - s.dialogue_share) * fall)).astype(int)


def rate(step: int, s: Settings) -> float:
    """Return the factor on the learning rates: up, flat, then linearly down to zero."""
    return min(1.0, (step + 1) / s.warmup_steps, (s.steps - step) / (s.decay_share * s.steps))


def held_out(loss: Any, rows: dict[str, Tensor], s: Settings, device: str) -> dict[str, float]:
    """Return the mean negative log-likelihood per token of each held-out corpus; `rows` are padded with -1."""
    result = {}
    for name, rows_NT in rows.items():
        total = torch.zeros((), device=device, dtype=torch.float64)
        for start in range(0, len(rows_NT), s.batch_rows):
            batch = rows_NT[start : start + s.batch_rows].to(device).long()
            batch = F.pad(batch, (0, 0, 0, s.batch_rows - len(batch)), value=-1)  # one shape, one compilation
            ids, targets = batch[:, :-1].clamp(min=0), batch[:, 1:]
            with torch.no_grad(), torch.autocast(device, torch.bfloat16):
                each = loss(ids, targets.clamp(min=0))
            total += (each * (targets.flatten() >= 0)).double().sum()
        result[name] = float(total / (rows_NT[:, 1:] >= 0).sum())
    return result


def padded(ids: np.ndarray, tokens: int) -> Tensor:
    """Return held-out ids as rows [N, tokens + 1], overlapping by one, padded with -1."""
    count = -(-(len(ids) - 1) // tokens)
    flat = np.full(count * tokens + 1, -1, np.int16)
    flat[: len(ids)] = ids
    return torch.from_numpy(np.lib.stride_tricks.sliding_window_view(flat, tokens + 1)[::tokens].copy())


def save(model: Falcon, s: Settings, out: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors (bf16) under Hugging Face's names."""
    config = {
        "architectures": ["FalconForCausalLM"],
        "model_type": "falcon",
        "dtype": "bfloat16",
        "vocab_size": s.vocab_size,
        "hidden_size": s.hidden_size,
        "ffn_hidden_size": 4 * s.hidden_size,
        "num_hidden_layers": s.num_layers,
        "num_attention_heads": s.num_heads,
        "num_kv_heads": 1,
        "multi_query": True,
        "parallel_attn": True,
        "new_decoder_architecture": False,
        "bias": False,
        "alibi": False,
        "activation": "gelu",
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "max_position_embeddings": 2048,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": END,
        "eos_token_id": END,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = {"bos_token_id": END, "eos_token_id": END}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    state = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})


def same_as_transformers(s: Settings, out: Path, ids_BT: Tensor) -> float:
    """Return the largest difference of logits between this file's network and transformers', in fp32 on the CPU."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ours = Falcon(s).eval()
    ours.load_state_dict({k: v.float() for k, v in load_file(out / "model.safetensors").items()})
    with torch.no_grad():
        return float((ours(ids_BT) - theirs(ids_BT).logits).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder made by prepare.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--record", type=Path, required=True, help="file for settings, curve and held-out perplexities")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change one of the settings")
    parser.add_argument("--eval-every", type=int, default=250)
    args = parser.parse_args()

    changed = {name: json.loads(value) for name, value in (item.split("=", 1) for item in args.set)}
    s = Settings(**changed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    started = time.perf_counter()
    torch.manual_seed(s.seed)
    torch.set_float32_matmul_precision("high")
    rng = np.random.default_rng(s.seed)

    manifest = json.loads((args.data / "manifest.json").read_text(encoding="utf-8"))
    train: dict[str, list[tuple[float, np.ndarray]]] = {"dialogue": [], "prose": []}
    for name, row in manifest["corpora"].items():
        train[row["kind"]].append((row["weight"], read(args.data, name, "train")))
    valid = {name: padded(read(args.data, name, "valid"), s.row_tokens) for name in manifest["corpora"]}
    num_dialogue = shares(s)
    dialogue = dialogue_rows(train["dialogue"], int(num_dialogue.sum()), s.row_tokens, rng)
    prose = prose_rows(train["prose"], int((s.batch_rows - num_dialogue).sum()), s.row_tokens, rng)
    passes = {
        "dialogue": dialogue.shape[0] * s.row_tokens / sum(w * len(ids) for w, ids in train["dialogue"]),
        "prose": prose.shape[0] * s.row_tokens / sum(w * len(ids) for w, ids in train["prose"]),
    }
    dialogue_t, prose_t = (torch.from_numpy(rows.astype(np.int16)).to(device) for rows in (dialogue, prose))
    print(f"data ready after {time.perf_counter() - started:.0f} s, passes {passes}", flush=True)

    model = Falcon(s).to(device)
    loss = torch.compile(model.loss) if device == "cuda" else model.loss
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "word_embeddings" not in name]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    embedding = model.transformer.word_embeddings.weight
    muon = torch.optim.Muon(matrices, lr=s.matrix_rate, weight_decay=s.weight_decay, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(
        [{"params": [embedding], "weight_decay": s.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=s.other_rate,
        betas=(0.9, 0.95),
        fused=device == "cuda",
    )
    num_parameters = sum(p.numel() for p in model.parameters())
    print(f"{num_parameters:,} parameters on {device}", flush=True)

    curve: list[dict[str, Any]] = []
    recent: list[Tensor] = []
    taken = [0, 0]
    trained_from, trained_s = time.perf_counter(), 0.0
    for step in range(s.steps):
        for optimizer, base in ((muon, s.matrix_rate), (adam, s.other_rate)):
            for group in optimizer.param_groups:
                group["lr"] = base * rate(step, s)
        n = int(num_dialogue[step])
        batch = torch.cat((dialogue_t[taken[0] : taken[0] + n], prose_t[taken[1] : taken[1] + s.batch_rows - n])).long()
        taken = [taken[0] + n, taken[1] + s.batch_rows - n]
        ids, targets = batch[:, :-1], batch[:, 1:]
        with torch.autocast(device, torch.bfloat16):
            mean = loss(ids, targets).mean()
        mean.backward()
        muon.step()
        adam.step()
        model.zero_grad(set_to_none=True)
        recent.append(mean.detach())
        if (step + 1) % args.eval_every == 0 or step + 1 == s.steps:
            train_loss = float(torch.stack(recent).mean())
            if not math.isfinite(train_loss):
                raise SystemExit(f"the loss is {train_loss} at step {step + 1}")
            recent = []
            trained_s += time.perf_counter() - trained_from
            model.eval()
            row = {"step": step + 1, "train": train_loss, "valid": held_out(loss, valid, s, device)}
            model.train()
            curve.append(row)
            shown = " ".join(f"{name} {value:.3f}" for name, value in row["valid"].items())
            print(f"step {step + 1} {trained_s:.0f} s train {train_loss:.3f} | {shown}", flush=True)
            trained_from = time.perf_counter()

    save(model, s, args.out)
    final = {}
    for name, nll in curve[-1]["valid"].items():
        v = manifest["corpora"][name]["valid"]
        final[name] = {
            "kind": manifest["corpora"][name]["kind"],
            "tokens": v["tokens"],
            "token_ppl": math.exp(nll),
            "word_ppl": math.exp(nll * v["tokens"] / v["words"]),
            "bits_per_char": nll * v["tokens"] / v["characters"] / math.log(2),
        }
    for kind in ("dialogue", "prose"):
        names = [name for name in final if final[name]["kind"] == kind]
        counts = [manifest["corpora"][name]["valid"] for name in names]
        nats = sum(curve[-1]["valid"][name] * c["tokens"] for name, c in zip(names, counts, strict=True))
        final[f"all {kind}"] = {
            "kind": kind,
            "tokens": sum(c["tokens"] for c in counts),
            "token_ppl": math.exp(nats / sum(c["tokens"] for c in counts)),
            "word_ppl": math.exp(nats / sum(c["words"] for c in counts)),
            "bits_per_char": nats / sum(c["characters"] for c in counts) / math.log(2),
        }
    sample = valid["selfdial"][:2, : min(256, s.row_tokens)].long().clamp(min=0)
    record = {
        "settings": asdict(s),
        "parameters": num_parameters,
        "passes": passes,
        "tokens": s.steps * s.batch_rows * s.row_tokens,
        "train_s": round(trained_s, 1),
        "total_s": round(time.perf_counter() - started, 1),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "max_logit_difference_to_transformers": same_as_transformers(s, args.out, sample),
        "held_out": final,
        "curve": curve,
    }
    args.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in record.items() if k not in ("curve", "settings")}, indent=1), flush=True)


if __name__ == "__main__":
    main()
