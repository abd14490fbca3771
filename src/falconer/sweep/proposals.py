"""What Optuna decides in a search: which setting is tried next, and which trial is stopped.

Its study is in memory alone. What a search knows is in the folders of its runs, and the study is told all of it again
whenever the search is continued. Each proposal has a random generator of its own, which depends on the search's seed
and the trial's number, so a search that was killed proposes what it would have proposed.
"""

from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from falconer.errors import FalconerError
from falconer.sweep.plan import Plan, better

if TYPE_CHECKING:
    import optuna

# Where few of the settings are left, TPE may propose what has been tried again and again; chance does not.
_TRIES = 10


def check_optuna() -> None:
    """Check that Optuna is there.

    Raises:
        FalconerError: it is not installed.
    """
    if find_spec("optuna") is None:
        raise FalconerError(
            "A search needs Optuna, which is not installed.",
            "Run: pip install 'optuna>=5,<6'. Or give lists of values: train.learning_rate=1e-4,3e-4,1e-3.",
        )


def optuna_version() -> str:
    """Return Optuna's version: another one may propose something else."""
    return metadata.version("optuna")


class Trial:
    """A setting that is tried."""

    def __init__(self, study: "optuna.Study", trial: "optuna.Trial", values: Mapping[str, str], keep: int) -> None:
        self.values = values
        self._study, self._trial, self._keep = study, trial, keep
        self._num_parts = 0

    def is_stopped_by(self, value: float) -> bool:
        """Return whether successive halving stops it, after a part of its training that ended with this figure."""
        # Optuna's pruner has its rungs at the powers of `keep`.
        self._trial.report(value, self._keep**self._num_parts)
        self._num_parts += 1
        return self._trial.should_prune()

    def finish(self, value: float) -> None:
        """Say with which figure the whole training ended."""
        self._study.tell(self._trial, value)

    def stop(self) -> None:
        """Say that it was stopped; the figure of its last part is known."""
        from optuna.trial import TrialState

        self._study.tell(self._trial, state=TrialState.PRUNED)

    def fail(self) -> None:
        """Say that it could not be trained: nothing is learned from it."""
        from optuna.trial import TrialState

        self._study.tell(self._trial, state=TrialState.FAIL)


class Proposals:
    """The study of a search.

    Settings are proposed by Optuna's TPE (Watanabe 2023, arXiv:2304.11127) with its defaults; those of the first ten
    trials are drawn at random. Trials are stopped by its asynchronous successive halving (Li et al. 2020,
    arXiv:1810.05934): a trial goes on if it is among the best of those that have come as far before it.

    Raises:
        FalconerError: Optuna is not installed.
    """

    def __init__(self, plan: Plan) -> None:
        check_optuna()
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        assert plan.search is not None
        self._search, self._keep = plan.search, plan.keep or 1
        self._spaces = {key: _space(plan, key) for key in plan.keys}
        self._tried: set[tuple[str, ...]] = set()
        self._study = optuna.create_study(
            direction="minimize" if better(plan.by, 0, 1) else "maximize",
            sampler=optuna.samplers.RandomSampler(seed=plan.search.seed),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=plan.keep)
            if plan.keep
            else optuna.pruners.NopPruner(),
        )

    def propose(self, number: int) -> dict[str, str]:
        """Return the setting of a new trial, which is none of those before; trials count from 1."""
        import optuna

        attempt = 0
        while True:
            seed = _seed(self._search.seed, number, attempt)
            samplers = optuna.samplers
            self._study.sampler = (
                samplers.TPESampler(seed=seed) if attempt < _TRIES else samplers.RandomSampler(seed=seed)
            )
            draft = self._study.ask(self._spaces)
            # The trial is begun with the values as they are written, so that it is the same when it is read again.
            self._study.tell(draft, state=optuna.trial.TrialState.FAIL)
            values = {key: self._written(key, draft.params[key]) for key in self._spaces}
            if tuple(values.values()) not in self._tried:
                return values
            attempt += 1

    def begin(self, values: Mapping[str, str]) -> Trial:
        """Begin the trial of a setting."""
        self._tried.add(tuple(values[key] for key in self._spaces))
        self._study.enqueue_trial({key: self._read(key, values[key]) for key in self._spaces})
        return Trial(self._study, self._study.ask(self._spaces), values, self._keep)

    def _written(self, key: str, value: Any) -> str:
        found = self._search.ranges.get(key)
        return value if found is None else found.text(value)

    def _read(self, key: str, text: str) -> Any:
        found = self._search.ranges.get(key)
        if found is None:
            return text
        return int(text) if found.is_whole else float(text)


def _space(plan: Plan, key: str) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    assert plan.search is not None
    if key in plan.axes:
        return CategoricalDistribution(plan.axes[key])
    found = plan.search.ranges[key]
    if found.is_whole:
        return IntDistribution(int(found.low), int(found.high), log=found.is_log, step=found.step)
    return FloatDistribution(found.low, found.high, log=found.is_log)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
