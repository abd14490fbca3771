"""What a model's configuration says of its limits: how many tokens it can read at once, and which ones it knows."""

from transformers import PreTrainedConfig

from falconer.errors import FalconerError

# Where architectures keep the number of positions that they have.
_CONTEXT_KEYS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length", "max_target_positions",
)  # fmt: skip
# Of these it is the length that they were trained with and binds nothing: a bias by distance, a recurrent state.
_UNBOUND = ("bloom", "rwkv")


def context_of(config: PreTrainedConfig) -> int | None:
    """Return how many tokens a model has positions for; None where nothing limits them (recurrent models, ALiBi).

    MPT has ALiBi too, but for so many positions alone.
    """
    text = config.get_text_config(decoder=True)
    if text.model_type in _UNBOUND or getattr(text, "alibi", False):
        return None
    values = (getattr(text, key, None) for key in _CONTEXT_KEYS)
    # XLNet says -1 for "no limit".
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def vocabulary_of(config: PreTrainedConfig) -> int:
    """Return the rows of a model's embedding of tokens."""
    return int(config.get_text_config(decoder=True).vocab_size)


def check_token(largest: int, config: PreTrainedConfig, where: str) -> None:
    """Refuse token ids that a model has no embedding for.

    Args:
        largest: the largest id of what is to be read, or the smallest.
        where: what that is.

    Raises:
        FalconerError: naming the id and, where it is too large, the embedding's rows.
    """
    rows = vocabulary_of(config)
    if largest < 0:
        raise FalconerError(f"{where} has token id {largest:,}.", "Token ids are 0 or more.")
    if largest >= rows:
        raise FalconerError(
            f"{where} has token id {largest:,}, but the model's embedding has {rows:,} rows: its tokenizer has entries "
            "that the model does not know.",
            "Use the tokenizer that belongs to the model, or call model.resize_token_embeddings(len(tokenizer)) and "
            "save the model again.",
        )
