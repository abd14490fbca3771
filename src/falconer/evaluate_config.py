"""The section `evaluate` of the configuration, and what all sections share."""

from pydantic import BaseModel, ConfigDict, Field

from falconer.decoding_limits import MOST_BEAMS, MOST_NGRAM, Scope
from falconer.errors import FalconerError

# What numpy and torch take as the seed of their generators.
MAX_SEED = 2**32 - 1


class Section(BaseModel):
    """A section of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class EvaluateConfig(Section):
    """What is generated and measured. Decoding is greedy by default, since that needs no seed."""

    max_dialogues: int | None = Field(
        None, ge=1, description="Evaluate only this many test dialogues, the first ones; null: all."
    )
    max_replies: int | None = Field(
        None,
        ge=1,
        description="Generate at most this many replies; null: all. Perplexity is always computed over all replies.",
    )
    max_ranked: int | None = Field(
        None,
        ge=0,
        description="Rank the candidates (hits@1) for at most this many of those replies; null: for all, 0: for none.",
    )
    max_new_tokens: int = Field(
        32,
        ge=1,
        description="Maximum length of a generated reply, in tokens; the longest gold reply of ConvAI2 has 24 words.",
    )
    batch_size: int = Field(
        32,
        ge=1,
        description="Replies that are generated at a time. On a GPU, the fast path for Falcon takes as many as fit; "
        "for other models, set a few hundred. Batches that don't fit are halved.",
    )
    repetition_penalty: float = Field(
        1.0,
        ge=1,
        description="Makes tokens that have already occurred less likely; 1.0: no penalty (arXiv:1909.05858).",
    )
    repetition_penalty_scope: Scope = Field(
        "prompt",
        description="Where they have occurred: prompt: in the prompt or the reply; own: in the reply or the same "
        "speaker's earlier turns; reply: in the reply alone.",
    )
    no_repeat_ngram_size: int = Field(
        0, ge=0, le=MOST_NGRAM, description="No n-gram of this many tokens occurs twice; 0: off (arXiv:1705.04304)."
    )
    no_repeat_ngram_scope: Scope = Field(
        "reply", description="Where the n-gram must not occur before, as in evaluate.repetition_penalty_scope."
    )
    num_beams: int = Field(
        1, ge=1, le=MOST_BEAMS, description="Number of beams of beam search, at temperature 0; 1: no beam search."
    )
    length_penalty: float = Field(
        1.0,
        description="Of beam search: a reply's log-probability is divided by its number of tokens to this power; "
        "higher values favour longer replies.",
    )
    temperature: float = Field(0.0, ge=0, description="Sampling temperature; 0: greedy decoding.")
    top_k: int = Field(0, ge=0, description="Sample from the k most likely tokens; 0: from all.")
    top_p: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Sample from the most likely tokens whose probabilities add up to p; used if the temperature is "
        "above 0.",
    )
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Sample from tokens at least this share as likely as the most likely one; 0: from all "
        "(arXiv:2407.01082).",
    )
    num_samples: int = Field(20, ge=0, description="Number of randomly chosen replies that the report shows.")
    resamples: int = Field(
        1000,
        ge=100,
        description="Number of bootstrap resamples for each interval and each test; "
        "tests that are corrected together take at least 100 for each of them.",
    )
    language: str = Field(
        "auto", description="Language of the replies: a code such as en or zh; auto: detected from the gold replies."
    )
    nli_model: str | None = Field(None, description="Local folder of an NLI model, for the C-score; null: no C-score.")
    seed: int = Field(
        17,
        ge=0,
        le=MAX_SEED,
        description="Seed for sampling, for the choice of the replies shown in the report, and for the bootstrap.",
    )


def check_decoding(settings: EvaluateConfig) -> None:
    """Check that the settings of decoding can be used together.

    Raises:
        FalconerError: beam search is combined with sampling.
    """
    if settings.num_beams > 1 and settings.temperature > 0:
        raise FalconerError(
            f"evaluate.num_beams={settings.num_beams} and evaluate.temperature={settings.temperature} can't be "
            "combined: beam search does not sample.",
            "Set evaluate.temperature=0, or evaluate.num_beams=1.",
        )
