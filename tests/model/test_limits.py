"""What a configuration says of a model's limits, for every place where architectures say it."""

import numpy as np
import pytest
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma3Config,
    GenerationConfig,
    GPT2Config,
    GPTNeoXConfig,
    JambaConfig,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    RwkvConfig,
    XLNetConfig,
)

from falconer.errors import FalconerError
from falconer.model.limits import check_numbers, check_token, check_tokens, context_of, end_tokens, vocabulary_of


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (FalconConfig(), 2048),
        (FalconConfig(alibi=True), None),
        (GPT2Config(n_positions=77), 77),
        (LlamaConfig(max_position_embeddings=99), 99),
        (MptConfig(max_seq_len=55), 55),
        (JambaConfig(max_position_embeddings=500), 500),
        (Gemma3Config(text_config={"max_position_embeddings": 66}), 66),
        (MambaConfig(n_ctx=44), 44),
        (MambaConfig(seq_length=45), 45),
        (BloomConfig(seq_length=2048), None),
        (RwkvConfig(context_length=1024), None),
        (MambaConfig(), None),
        (XLNetConfig(), None),
    ],
)
def test_the_context(config, expected):
    assert context_of(config) == expected


def test_end_tokens_are_ids_or_refused():
    for named, found in ((None, set()), (11, {11}), ([11, 12], {11, 12})):
        assert end_tokens(GenerationConfig(eos_token_id=named), "m") == found
    for wrong in ([["x"]], "x", [[[]]], True, {"a": 1}, 1.5):
        settings = GenerationConfig()
        settings.eos_token_id = wrong
        with pytest.raises(FalconerError, match=r"generation_config.json of 'm' is damaged: eos_token_id is"):
            end_tokens(settings, "m")


def test_the_vocabulary_and_what_is_beyond_it():
    config = Gemma3Config(text_config={"vocab_size": 300})
    assert vocabulary_of(config) == 300
    check_token(299, config, "Dialogue 'a'")
    with pytest.raises(FalconerError, match="Dialogue 'a' has token id -1"):
        check_token(-1, config, "Dialogue 'a'")
    with pytest.raises(FalconerError, match="Dialogue 'a' has token id 300, but the model's embedding has 300 rows"):
        check_token(300, config, "Dialogue 'a'")


@pytest.mark.parametrize("kind", [list, np.array])
def test_all_ids_of_a_sequence_are_checked(kind):
    config = GPT2Config(vocab_size=10)
    for ids in ([0, 9], [3], []):
        check_tokens(kind(ids), 10, config, "A prompt")
    for ids, wrong in (([0, 10], "10"), ([4, -1, 2], "-1"), ([-2, 99], "-2")):
        with pytest.raises(FalconerError, match=f"A prompt has token id {wrong}"):
            check_tokens(kind(ids), 10, config, "A prompt")


@pytest.mark.parametrize(
    ("config", "key", "wrong"),
    [
        (FalconConfig(), "hidden_dropout", [2**32, -1, 1.1, float("nan"), float("inf"), 10**400, None, [], True]),
        (FalconConfig(), "layer_norm_epsilon", [-1e-5, float("nan"), None, "x"]),
        (LlamaConfig(), "attention_dropout", [2, -0.1, float("inf"), None]),
        (LlamaConfig(), "num_key_value_heads", [-1]),
        (LlamaConfig(), "num_hidden_layers", [-1, 2001, 2**32]),
        (FalconConfig(), "num_hidden_layers", [2**32, 10**30]),
        (GPT2Config(), "resid_pdrop", [float("nan"), 2]),
        (GPT2Config(), "n_head", [-1]),
        (GPT2Config(), "n_layer", [2**32]),
        (GPTNeoXConfig(), "hidden_dropout", [float("nan"), 7]),
        (Gemma3Config(), "attention_dropout", [-1]),
    ],
)
def test_numbers_that_nothing_can_be_computed_with_are_refused(config, key, wrong):
    check_numbers(config, "them/model")
    text = config.get_text_config(decoder=True)
    before = getattr(text, key)
    for value in wrong:
        # As a file of an older version of transformers would bring it, past that version's own checks.
        object.__setattr__(text, key, value)
        with pytest.raises(FalconerError, match=f"config.json of 'them/model' is damaged: {key} is "):
            check_numbers(config, "them/model")
    for value in (before, 0.5 if isinstance(before, float) else 1):
        object.__setattr__(text, key, value)
        check_numbers(config, "them/model")
