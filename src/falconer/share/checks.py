"""The checks before a folder leaves this machine: memorised replies, personal data, special files, traces of it."""

import getpass
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import get_token

from falconer.errors import FalconerError
from falconer.evaluate.text.predictions import read_predictions
from falconer.model.hub import TOKEN
from falconer.model.tokenizer import EMBEDDED_MODEL, resolve
from falconer.records import Dialogue
from falconer.run.folder import predictions_name, read_config
from falconer.share.memorised import LONG_WORDS, Memorised
from falconer.share.origin import is_local
from falconer.share.personal import masked, personal
from falconer.train.setup import run_dialogues

Verdict = Literal["good", "note", "stop"]
# The hub's own limit for one file.
MAX_FILE_BYTES = 50 * 10**9
# Of a large file, the beginning: there safetensors and GGUF keep everything that is no weight.
_READ_BYTES = 64 * 2**20
_NUM_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check: "stop" keeps the folder from being pushed."""

    name: str
    verdict: Verdict
    said: str
    details: tuple[str, ...] = ()


def run_checks(run: Path, folder: Path, memorised: Memorised | str, sources: Mapping[str, Path]) -> list[Check]:
    """Return the results of all checks.

    Args:
        folder: that for the hub.
        sources: the folders that it was made from, by what they are called, which are searched for special files.
    """
    return [
        memorisation(memorised),
        personal_data(run, folder),
        special_files({"the folder for the hub": folder, **sources}),
        traces(run, folder),
    ]


def memorisation(found: Memorised | str) -> Check:
    """Say whether the model repeats training replies more often than people do."""
    if isinstance(found, str):
        return Check("memorisation", "note", f"not measured: {found}")
    tuned, human = found.long["tuned"], found.long["human"]
    if tuned.percent is None or human.percent is None:
        said = f"no generated reply has {LONG_WORDS} words or more"
        return Check("memorisation", "good", said)
    said = (
        f"{tuned.num_verbatim} of {tuned.num_replies} generated replies of {LONG_WORDS} words or more "
        f"({tuned.percent:.1f} %) are training replies word for word; of those that people wrote, "
        f"{human.num_verbatim} of {human.num_replies} ({human.percent:.1f} %)"
    )
    return Check("memorisation", "note" if found.is_conspicuous else "good", said)


def personal_data(run: Path, folder: Path) -> Check:
    """Look for e-mail addresses and telephone numbers in training dialogues, replies, and the card."""
    texts: list[Iterable[tuple[str, str]]] = [_card(folder), _replies(run)]
    unread = ""
    try:
        texts.append(_training(run))
    except FalconerError as error:
        unread = f"; the training dialogues could not be searched: {error.message}"
    found = [one for some in texts for one in personal(some)]
    if not found:
        return Check("personal data", "note" if unread else "good", f"no e-mail address, no telephone number{unread}")
    kinds = {kind: sum(one.kind == kind for one in found) for kind in ("e-mail address", "telephone number")}
    said = " and ".join(
        f"{number} {'texts look' if number > 1 else 'text looks'} like an {kind}".replace("an t", "a t")
        for kind, number in kinds.items()
        if number
    )
    shown = tuple(f"{one.where}: {masked(one.text)}" for one in found[:_NUM_SHOWN])
    more = (f"... and {len(found) - _NUM_SHOWN} more",) if len(found) > _NUM_SHOWN else ()
    return Check("personal data", "stop", said + unread, shown + more)


def special_files(folders: Mapping[str, Path]) -> Check:
    """Look for what is no plain file, for hidden files, and for files that are too large for the hub."""
    found = [f"{name} in {where}: {what}" for where, folder in folders.items() for name, what in _special(folder)]
    if not found:
        return Check("files", "good", "all are plain files of a size that the hub takes")
    return Check("files", "stop", "some files should not leave this machine", tuple(found[:_NUM_SHOWN]))


def traces(run: Path, folder: Path) -> Check:
    """Look for this machine's paths, its user's name, and access tokens in all files of the folder for the hub."""
    patterns = _patterns(run, folder)
    found = []
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        with path.open("rb") as file:
            content = file.read(_READ_BYTES)
        found += [f"{path.relative_to(folder)}: {what}" for what, pattern in patterns if pattern.search(content)]
    if not found:
        return Check("traces", "good", "no path, user name or access token of this machine in any file")
    return Check("traces", "stop", "files tell of this machine", tuple(found[:_NUM_SHOWN]))


def _patterns(run: Path, folder: Path) -> list[tuple[str, re.Pattern[bytes]]]:
    found = [("something that looks like an access token", re.compile(TOKEN.pattern.encode("ascii")))]
    if token := get_token():
        found.append(("this machine's access token", re.compile(re.escape(token.encode()))))
    config = read_config(run)
    named = (config.model.name, config.data.train, config.data.valid, config.data.test, config.lora.init_adapter)
    places = {run.resolve(), folder.resolve(), Path.cwd(), *(Path(name) for name in named if name and is_local(name))}
    places |= {Path(resolve(EMBEDDED_MODEL)).parents[1]}
    found += [
        ("a path of this machine", re.compile(re.escape(os.fsencode(place)) + rb"(?![\w-])"))
        for place in sorted(places)
        # A short one, such as "/data" or "dogs", also occurs by chance.
        if len(place.parts) > 2
    ]
    # Tokenizers of code know "/root" and "/home" themselves.
    homes = {os.fsencode(Path.home()), b"/home/" + getpass.getuser().encode()}
    found += [("the home folder of its user", re.compile(re.escape(home) + rb"/[\w.]")) for home in sorted(homes)]
    return found


def _special(folder: Path) -> Iterator[tuple[str, str]]:
    for parent, folders, files in os.walk(folder):
        for name in sorted(files + folders):
            path = Path(parent) / name
            shown = str(path.relative_to(folder))
            about = path.lstat()
            if stat.S_ISLNK(about.st_mode):
                yield shown, "a symbolic link"
            elif stat.S_ISDIR(about.st_mode):
                if name.startswith(".") and name != ".eval_results":
                    yield shown, "a hidden folder"
            elif not stat.S_ISREG(about.st_mode):
                yield shown, "no plain file (a socket, pipe or device)"
            elif name.startswith("."):
                yield shown, "a hidden file"
            elif about.st_size > MAX_FILE_BYTES:
                yield shown, f"{about.st_size / 1e9:.0f} GB, more than the {MAX_FILE_BYTES / 1e9:.0f} GB of one file"


def _card(folder: Path) -> Iterator[tuple[str, str]]:
    path = folder / "README.md"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        yield f"README.md, line {number}", line


def _replies(run: Path) -> Iterator[tuple[str, str]]:
    path = run / predictions_name("tuned")
    for row in read_predictions(path) if path.is_file() else ():
        yield f"generated reply in dialogue {row.dialogue_id}", row.prediction


def _training(run: Path) -> list[tuple[str, str]]:
    """Return the texts of the run's training dialogues.

    Raises:
        FalconerError: the data is gone or has changed.
    """
    dialogues = run_dialogues(run, read_config(run))
    dialogues.check(("train", "valid"))
    return [pair for dialogue in dialogues.splits().train for pair in _texts(dialogue)]


def _texts(dialogue: Dialogue) -> Iterator[tuple[str, str]]:
    where = f"training dialogue {dialogue.id}"
    for line in (*dialogue.persona, *dialogue.partner_persona):
        yield f"{where}, persona", line
    for turn in dialogue.turns:
        yield where, turn.text
