"""An engine that says what it is told to, for tests of conversations."""

from functools import cached_property


class Parrot:
    """Stands in for an engine and its conversation: says the given tokens, and keeps the prompts it saw."""

    def __init__(self, tokenizer, encoder, is_base=False):
        self.tokenizer, self.encoder, self.prompts, self.requests, self.says_next = tokenizer, encoder, [], [], []
        self.is_base, self.closed = is_base, 0

    @cached_property
    def base(self):
        return Parrot(self.tokenizer, self.encoder, is_base=True)

    def conversation(self):
        return self

    def reply(self, request):
        self.requests.append(request)
        self.prompts.append(self.tokenizer.decode(request.prompt))
        try:
            for token in self.says_next:
                if isinstance(token, Exception):
                    raise token
                yield token
        finally:
            self.closed += 1

    def says(self, text, *, ends=True):
        self.says_next = self.encoder.encode_text(f" {text}") + ([self.encoder.end_id] if ends else [])
