"""Engines over models that tests make themselves."""

from typing import Any

import torch

from falconer.data.encode import Encoder
from falconer.data.prompt import PromptFormat
from falconer.model.engine import Decoding, Engine, Request
from falconer.model.tokenizer import load_tokenizer
from falconer.runtime import Precision


def mini_encoder(max_tokens: int = 400, format: PromptFormat | None = None) -> Encoder:
    """Return an encoder of falcon-mini's tokenizer."""
    tokenizer, end_id = load_tokenizer("falcon-mini")
    return Encoder(tokenizer.backend_tokenizer.to_str(), end_id, max_tokens, format)


def engine_of(
    model: Any, encoder: Encoder | None = None, precision: torch.dtype = torch.float32, **options: Any
) -> Engine:
    """Return an engine in a precision, with falcon-mini's encoder unless told otherwise."""
    return Engine(model, encoder or mini_encoder(), Precision(precision, "a test"), **options)


def requests(prompts: Any, decoding: Decoding | None = None) -> list[Request]:
    """Return numbered requests that differ in their prompts alone."""
    return [Request(prompt, decoding or Decoding(), number) for number, prompt in enumerate(prompts)]


def ask(engine: Engine, asked: list[Request], batch_size: int = 32) -> list[list[int]]:
    """Return the token ids of each request's reply, in their order."""
    found = dict(engine.tokens(asked, batch_size=batch_size))
    return [found[index] for index in range(len(asked))]


def alone(engine: Engine, asked: list[Request]) -> list[list[int]]:
    """Return the token ids of each request's reply, each asked for by itself."""
    return [ask(engine, [request])[0] for request in asked]
