"""The configuration's section `ranking`: how replies are ranked in training, with train.objective=lm+ranking."""

from pydantic import BaseModel, ConfigDict, Field


class RankingConfig(BaseModel):
    """The ranking loss; it only matters with train.objective=lm+ranking."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    distractors: int = Field(
        4, ge=1, le=100, description="Distractors beside the gold reply; Persona-Chat's evaluation has 19."
    )
    share: float = Field(
        1.0, gt=0, le=1, description="Share of the replies of each dialogue that are ranked, chosen anew each epoch."
    )
    weight: float = Field(
        0.5, gt=0, le=1000, description="Weight of the ranking loss beside the loss of the language model."
    )
    scale: float = Field(
        2.0,
        gt=0,
        le=1000,
        description="The mean log-probabilities of gold reply and distractors are multiplied by this before the "
        "softmax: they differ by tenths of a nat.",
    )
