"""How well figures of single replies agree with people's ratings of them, for the glossary of the report.

Measured by benchmarks/human_ratings.py on two public sets of rated Persona-Chat replies, see docs/results.md; a figure
of a whole set averages much of the noise of single replies away.
"""

from collections.abc import Mapping
from types import MappingProxyType

# Spearman's correlation and its 95 % interval: with the overall quality of 180 replies of three models (USR), and with
# the coherence of 600 replies of four models (GRADE), whose data has no personas.
Correlation = tuple[float, float, float]
_SPEARMAN: Mapping[str, tuple[Correlation, Correlation | None]] = MappingProxyType(
    {
        "bleu": ((0.124, -0.03, 0.277), (0.118, 0.03, 0.204)),
        "bleu_2": ((0.084, -0.073, 0.241), (0.131, 0.045, 0.218)),
        "chrf": ((0.173, 0.013, 0.33), (0.173, 0.09, 0.255)),
        "rouge_l": ((0.132, -0.027, 0.278), (0.115, 0.041, 0.198)),
        "f1": ((0.146, -0.004, 0.289), (0.124, 0.049, 0.209)),
        "persona_use": ((0.066, -0.096, 0.237), None),
        "repetition": ((-0.182, -0.326, -0.034), (0.014, -0.061, 0.08)),
        "mean_words": ((-0.17, -0.311, 0.009), (0.0, -0.079, 0.077)),
    }
)


def people_note(key: str) -> str:
    """Return what is known of a figure's agreement with people; "" where nothing is."""
    if key not in _SPEARMAN:
        return ""
    quality, coherence = _SPEARMAN[key]
    said = f"{_shown(quality)} on 180 replies rated for quality"
    if coherence:
        said += f", {_shown(coherence)} on 600 rated for coherence"
    return f"Spearman's correlation with people's ratings of single replies: {said}"


def _shown(correlation: Correlation) -> str:
    value, low, high = (f"{number:.2f}".replace("-", "−") for number in correlation)
    return f"{value} (95 %: {low} to {high})"
