"""The rows of a data set on the Hugging Face hub, read with the library `datasets`."""

from typing import Any

from falconer.errors import FalconerError


def load_splits(name: str) -> dict[str, Any]:
    """Return the splits of a hub data set (or of its copy in the local cache), each an iterable of rows as dicts.

    Args:
        name: "owner/name".

    Raises:
        FalconerError: `datasets` is missing, or the data set can't be had; it says what was tried.
    """
    try:
        import datasets
    except ImportError:
        raise FalconerError(
            f"There is no file '{name}', and a data set of the hub needs `datasets`.", "pip install datasets."
        ) from None
    # Older data sets come with a loading script, which is remote code; the hub keeps a converted copy of their rows.
    tried = []
    for revision in (None, "refs/convert/parquet"):
        try:
            return dict(datasets.load_dataset(name, revision=revision))
        # The libraries below (HTTP, cache, builders) raise errors without a common base; all mean "not to be had".
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            reason = reason.replace(f"'{name}'", "it").rstrip(".")[:200]
            tried.append(f"{revision}: {reason}" if revision else reason)
            if revision is None and "script" not in str(error):
                break
    raise FalconerError(
        f"'{name}' is not a local file, and it could not be loaded from the hub or its cache: {'; '.join(tried)}.",
        "Check the name and the connection, or give the path of a file; persona-chat-sample is embedded in falconer.",
    )
