"""The decoding of chat and server where nothing else is asked for, chosen by the table in docs/chat.md."""

from falconer.decoding_limits import Scope

TEMPERATURE = 1.0
TOP_P = 1.0
REPETITION_PENALTY = 1.0
MIN_P = 0.3
NO_REPEAT_NGRAM_SIZE = 3
NO_REPEAT_NGRAM_SCOPE: Scope = "own"
MAX_NEW_TOKENS = 64
SEED = 17
