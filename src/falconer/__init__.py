"""falconer: fine-tune Falcon-7B into a persona-grounded conversation partner.

The names in `__all__` are the public interface; docs/python.md shows how to use them. They are imported on first use,
so that `import falconer` is fast.
"""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from falconer.api import Run, compare, load_config, load_dialogues, open_run, score, train_run
    from falconer.config import Config
    from falconer.errors import FalconerError
    from falconer.evaluate.text.compare import Comparison
    from falconer.evaluate.text.score import FileScore
    from falconer.records import Dialogue, Prediction, Score, Turn
    from falconer.run.metrics import Metrics
    from falconer.talk.session import Session
    from falconer.train.loop import TrainResult

__version__ = "0.5.0"

__all__ = [
    "Comparison",
    "Config",
    "Dialogue",
    "FalconerError",
    "FileScore",
    "Metrics",
    "Prediction",
    "Run",
    "Score",
    "Session",
    "TrainResult",
    "Turn",
    "__version__",
    "compare",
    "load_config",
    "load_dialogues",
    "open_run",
    "score",
    "train_run",
]

# Where each public name is defined.
_HOMES = MappingProxyType({
    "Comparison": "evaluate.text.compare", "Config": "config", "Dialogue": "records", "FalconerError": "errors",
    "FileScore": "evaluate.text.score", "Metrics": "run.metrics", "Prediction": "records", "Run": "api",
    "Score": "records", "Session": "talk.session", "TrainResult": "train.loop", "Turn": "records", "compare": "api",
    "load_config": "api", "load_dialogues": "api", "open_run": "api", "score": "api", "train_run": "api",
})  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'falconer' has no attribute '{name}'")
    return getattr(import_module(f"falconer.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
