"""What a shared model was made from: base model and data by their names on the hub, and their licences."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import HfApi, ModelCard, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from falconer import runtime
from falconer.config import Config
from falconer.data.sources import SAMPLE
from falconer.errors import FalconerError
from falconer.model.hub import is_repository
from falconer.model.tokenizer import EMBEDDED_MODEL, resolve

# The hub's word for a licence that nobody has named.
UNKNOWN = "unknown"
# As the README of the embedded sample says.
SAMPLE_LICENSE = "cc-by-4.0"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Origin:
    """Base model and data of a shared model.

    Args:
        base: the base model's name on the hub; None for the embedded one, which is part of falconer.
        base_revision: as the run was configured.
        base_license, data_license: their licences as the hub spells them, or "unknown".
        data: what the training data is called: a name on the hub, the embedded sample's, or "private data".
        dataset: the data's name on the hub, None if it has none.
        license: of the shared weights, or "unknown".
    """

    base: str | None
    base_revision: str | None
    base_license: str
    data: str
    dataset: str | None
    data_license: str
    license: str

    @property
    def base_name(self) -> str:
        """What the base is called in a text."""
        return self.base or EMBEDDED_MODEL

    @property
    def missing(self) -> list[str]:
        """What is not known, and the option that says it."""
        named = (
            ("the licence of the shared weights", self.license, "--license"),
            ("the licence of the training data", self.data_license, "--data-license"),
            ("the licence of the base model", self.base_license, "--base-license"),
        )
        return [f"{what} ({option})" for what, value, option in named if value == UNKNOWN]


def find_origin(
    config: Config, *, base_model: str | None = None, dataset: str | None = None, license: str | None = None,
    data_license: str | None = None, base_license: str | None = None,
) -> Origin:  # fmt: skip
    """Return what a run was made from; what is given takes precedence over what the run says, and nothing is guessed.

    Args:
        base_model, dataset: names on the hub.
        license, data_license, base_license: as the hub spells them, such as "apache-2.0".

    Raises:
        FalconerError: the base model is a folder of this machine and no name is given, or a name or licence is spelt
            otherwise than on the hub.
    """
    for option, value in (("--base-model", base_model), ("--dataset", dataset)):
        if value is not None and not is_repository(value):
            raise FalconerError(f"{option} {value} is not a name on the hub.", "Write it as OWNER/NAME.")
    base = base_model or _base_of(config.model.name)
    if base_license is None:
        base_license = _license_of(base) if base else _stated(Path(resolve(EMBEDDED_MODEL)) / "README.md")
    named = _data_of(config.data.train)
    if data_license is None and config.data.train == SAMPLE:
        data_license = SAMPLE_LICENSE
    return Origin(
        base=base,
        base_revision=None if base_model else config.model.revision,
        base_license=_checked("--base-license", base_license),
        data=dataset or named or "private data",
        dataset=dataset or (named if named != SAMPLE else None),
        data_license=_checked("--data-license", data_license),
        license=_checked("--license", license),
    )


def is_local(name: str) -> bool:
    """Return whether the name of a model or of a data set is a path, and says nothing on another machine."""
    return name.startswith((".", "/", "~")) or os.path.exists(name) or (name.count("/") > 1)


def _base_of(name: str) -> str | None:
    if name == EMBEDDED_MODEL:
        return None
    # Some old models of the hub have no owner: "gpt2".
    if is_local(name) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise FalconerError(
            f"The base model of this run, '{name}', is a folder of this machine, which nobody else has.",
            "Give its name on the hub: --base-model OWNER/NAME.",
        )
    return name


def _data_of(name: str) -> str | None:
    return name if name == SAMPLE or (is_repository(name) and not is_local(name)) else None


def _checked(option: str, license: str | None) -> str:
    if license is None:
        return UNKNOWN
    if _LICENSE.fullmatch(license) is None:
        raise FalconerError(
            f"{option} {license} is not spelt as on the hub.",
            "Write it in lower case, e.g. apache-2.0, mit, cc-by-4.0, cc-by-nc-4.0, llama3.2, gemma, other or unknown.",
        )
    return license


def _license_of(base: str) -> str | None:
    """Return the licence that a model's page states; None if it states none, or can't be asked for it now."""
    cached = try_to_load_from_cache(base, "README.md")
    if isinstance(cached, str) and (found := _stated(Path(cached))):
        return found
    if runtime.is_offline():
        return None
    try:
        data = HfApi().model_info(base, timeout=_SECONDS).card_data
    except (HfHubHTTPError, OfflineModeIsEnabled, HTTPError, OSError):
        return None
    return _one(data.get("license")) if data else None


def _stated(page: Path) -> str | None:
    try:
        return _one(ModelCard.load(page).data.get("license"))
    except (OSError, ValueError):
        return None


def _one(license: object) -> str | None:
    found = license[0] if isinstance(license, list) and license else license
    return found if isinstance(found, str) and _LICENSE.fullmatch(found) else None
