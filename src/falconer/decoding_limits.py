"""What decodings are limited to, for the configuration, the command line and the engine alike."""

from typing import Literal, get_args

# The longest n-grams that can be kept from repetition: a step compares as many tokens at every place.
MOST_NGRAM = 16
# Each beam is a row of the batch.
MOST_BEAMS = 16

# What must not be repeated besides the reply itself: nothing, the same speaker's earlier turns, or the whole prompt.
Scope = Literal["reply", "own", "prompt"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
