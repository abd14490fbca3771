"""What an evaluation's figures depend on, in words: settings, every configuration key, and the command to repeat it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from falconer import runtime
from falconer.config import Config, differences
from falconer.consoles import counted
from falconer.data.encode import Truncation
from falconer.data.recorded import EvaluationData
from falconer.data.splits import GIVEN, OWN_SPLIT
from falconer.evaluate.summary import Measured
from falconer.run.folder import ADAPTER, Evaluation, adapter_hashes, read_config
from falconer.run.metrics import NOT_MEASURED, Metrics


@dataclass(frozen=True, slots=True)
class Setup:
    """What the figures depend on and only a loaded model knows.

    Args:
        adapter: its folder in the run; `lora` is what it says of its own making (r, alpha, dropout, targets).
        num_quantized: layers in 4 bits.
        precision: its name and why it was chosen.
        decoding: how tokens are chosen, in words.
        template_sha256: of the prompt's template.
        max_tokens: of a prompt with its reply; `dropped` is what did not fit.
        generation: the path that replies took, and why.
        notes: what its user should know.
    """

    adapter: str
    lora: Mapping[str, str]
    num_quantized: int
    precision: str
    decoding: str
    template_sha256: str
    max_tokens: int
    dropped: Truncation
    generation: str
    notes: Sequence[str]


def with_facts(metrics: Metrics, config: Config, setup: Setup, data: EvaluationData, measured: Measured) -> Metrics:
    """Return figures with what they depend on: settings, data, what training shares with it, and the environment."""
    shared = f"{NOT_MEASURED}: {data.leakage}" if isinstance(data.leakage, str) else data.leakage
    settings = _settings(config, setup, data.sources["test"], measured) | {
        "language of the replies": str(measured.language),
        "shared with training": str(shared),
        "generation": setup.generation,
    }
    return replace(
        metrics,
        settings=settings | ({"notes": "; ".join(setup.notes)} if setup.notes else {}),
        data=data.sources,
        leakage=shared if isinstance(shared, str) else asdict(shared),
        environment=runtime.environment(runtime.pick_device(config.model.device)),
    )


def evaluation_record(run: Path, config: Config, setup: Setup, data: EvaluationData, measured: Measured) -> Evaluation:
    """Return what the report of an evaluation shows beyond its figures.

    Raises:
        FalconerError: the run's configuration is damaged.
    """
    asked = {"--controls": measured.ablations, "--decodings": measured.decodings}
    options = [option for option, found in asked.items() if found]
    return Evaluation(
        title=f"{config.model.name} on {Path(config.data.test or config.data.train).name}",
        command=_command(run, setup.adapter, config, options),
        language=measured.language.code,
        num_samples=config.evaluate.num_samples,
        sample_seed=config.evaluate.seed,
        settings=_every_setting(config, setup.lora),
        notes=data.notes,
        adapter=setup.adapter,
        adapter_sha256=adapter_hashes(run, setup.adapter),
    )


def _settings(config: Config, setup: Setup, test: Mapping[str, Any], measured: Measured) -> dict[str, str]:
    model, lora, tuned, dropped = config.model, setup.lora, measured.tuned, setup.dropped
    made = "" if test["made"] in (GIVEN, OWN_SPLIT) else f", {test['made']}"
    num_ranked = sum(row.ranks is not None for row in tuned.predictions)
    return {
        "base model": model.name + (f"@{model.revision}" if model.revision else ""),
        "quantisation": f"{model.quantization}, {setup.num_quantized} layers",
        "arithmetic": setup.precision,
        "adapter": f"LoRA r={lora['r']}, alpha={lora['alpha']}, dropout={lora['dropout']} on {lora['targets']}"
        + ("" if setup.adapter == ADAPTER else f" ({setup.adapter})"),
        "test data": f"{', '.join(test['paths'])}: {len(measured.dialogues)} dialogues{made}",
        "replies": f"{sum(one is not None for one in tuned.likelihoods):,} gold replies for perplexity, "
        f"{len(tuned.predictions):,} generated, {num_ranked:,} ranked against candidates",
        "text": config.data.text,
        "history": f"as many turns as fit into {setup.max_tokens} tokens; "
        + (
            f"{counted(dropped.num_turns, 'turn')} of {counted(dropped.num_dialogues, 'dialogue')} did not fit"
            if dropped.num_turns
            else "all of them fit"
        ),
        "decoding": setup.decoding,
        "prompt template": setup.template_sha256[:16],
    }


def _every_setting(config: Config, lora: Mapping[str, str]) -> dict[str, str]:
    """Return every key in force as section.key; what the adapter says of its own making takes the place of `lora.*`."""
    sections = config.model_dump()
    sections["lora"] |= lora
    return {f"{section}.{key}": str(value) for section, values in sections.items() for key, value in values.items()}


def _command(run: Path, adapter: str, config: Config, options: Sequence[str]) -> str:
    """Return what to type to get an evaluation again; the run's own settings need not be typed."""
    values = config.model_dump()
    changed = [key.split(".") for key in differences(read_config(run), config)]
    words = ["falconer", "evaluate", "--run", str(run)]
    words += ["--adapter", adapter] if adapter != ADAPTER else []
    return shlex.join(
        [*words, *options, *(f"{section}.{key}={_typed(values[section][key])}" for section, key in changed)]
    )


def _typed(value: object) -> str:
    return "null" if value is None else str(value)
