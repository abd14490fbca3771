"""The configuration keys of preference training, section `prefer`."""

from pydantic import BaseModel, ConfigDict, Field


class PreferConfig(BaseModel):
    """Preference training: `falconer prefer`."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    pairs: str | None = Field(
        None,
        description="Sources of the pairs of replies, separated by commas: distractors, repetitions, contradictions, "
        "samples, votes:FILE; null: no preference training. Set by falconer prefer --pairs.",
    )
    max_pairs: int = Field(
        2000, ge=1, description="The most pairs of each source but votes to train on; a tenth of it to validate on."
    )
    max_turns: int = Field(
        2000,
        ge=1,
        description="Training turns for which replies are generated (repetitions, samples) or judged (contradictions); "
        "a tenth of it of the validation turns.",
    )
    num_samples: int = Field(
        16, ge=2, le=64, description="With the source samples: replies that the tuned model samples for each turn."
    )
    gold_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="With the source samples: how much a sample's likeness to the gold reply counts; the rest is its "
        "mean likeness to the turn's other samples.",
    )
    beta: float = Field(
        0.1,
        gt=0,
        le=1000,
        description="DPO's beta: a higher value keeps the model closer to where it starts (arXiv:2305.18290). With "
        "prefer.length_normalised, values of 2 to 10 are usual.",
    )
    length_normalised: bool = Field(
        False, description="Divide each reply's log-probability by its tokens, so that length is no advantage."
    )
    sft_weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="Weight of the chosen replies' loss per token beside the preference loss (arXiv:2404.19733); 0: "
        "DPO alone.",
    )
