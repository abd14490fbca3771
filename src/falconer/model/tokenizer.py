"""Finding a model by name, and its tokenizer with our chat template."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from falconer import runtime
from falconer.data.prompt import CHAT_TEMPLATE
from falconer.errors import FalconerError

EMBEDDED_MODEL = "falcon-mini"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, SafetensorError)


def resolve(name: str) -> str:
    """Return the folder of the embedded model for its name, and any other name as it is."""
    if name == EMBEDDED_MODEL and not Path(name).is_dir():
        return str(resources.files("falconer") / "assets" / EMBEDDED_MODEL)
    return name


def load_tokenizer(name: str, revision: str | None = None) -> tuple[PreTrainedTokenizerFast, int]:
    """Load a fast tokenizer and set our chat template.

    Returns:
        The tokenizer and its end token's id.

    Raises:
        FalconerError: there is no such model, no fast tokenizer, or no end token.
    """
    with explain_missing(name, revision):
        tokenizer: Any = AutoTokenizer.from_pretrained(resolve(name), revision=revision, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise FalconerError(
            f"The tokenizer of '{name}' has no fast (tokenizer.json) form.", "Convert it, or choose another model."
        )
    if tokenizer.eos_token_id is None:
        raise FalconerError(
            f"The tokenizer of '{name}' has no end token, so no model could learn when to stop.",
            "Set eos_token in its tokenizer_config.json.",
        )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer, int(tokenizer.eos_token_id)


@contextmanager
def explain_missing(name: str, revision: str | None) -> Iterator[None]:
    """Turn what a library says about a model that can't be found or read into one line with the way out."""
    try:
        yield
    except Exception as error:
        # tokenizers raises bare exceptions, and transformers a bare RuntimeError where weights don't fit config.json;
        # KeyError and TypeError come of JSON files with other contents.
        if type(error) not in (Exception, RuntimeError) and not isinstance(error, _UNREADABLE):
            raise
        path = Path(resolve(name))
        if path.is_dir():
            tried = f"the folder '{path}' can't be read as a model: {_first_line(error)}"
            hint = "It needs config.json, tokenizer.json and *.safetensors (pickled .bin weights are never loaded)."
        elif runtime.is_offline():
            tried = f"there is no folder '{name}', and the hub was not asked because HF_HUB_OFFLINE is set"
            hint = "Give a local folder, unset HF_HUB_OFFLINE, or use model.name=falcon-mini."
        else:
            at = f" at revision '{revision}'" if revision else ""
            hub = f"the hub has no such model{at} or could not be reached: {_first_line(error)}"
            tried = f"there is no folder '{name}', and {hub}"
            hint = "Check the name and the connection (hf auth login for gated models), or use model.name=falcon-mini."
        raise FalconerError(f"Model '{name}' was not found: {tried.rstrip('.')}.", hint) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"{type(error).__name__}: {text}" if isinstance(error, (KeyError, TypeError)) or not text else text
