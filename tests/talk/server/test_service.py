"""What is served: each model has the stop tokens of its own prompt format."""

from dataclasses import replace

from falconer.data.prompt import PromptFormat
from falconer.talk.server.service import ServedModel
from falconer.talk.text import Writer
from served import encoder_of, parrot_of, service_of


def test_stop_tokens_follow_from_the_format():
    one, several = encoder_of(), encoder_of()
    several.format = replace(PromptFormat(), multi_line=True)
    line_break = one.line_break()[0]
    assert line_break in ServedModel("a", None, Writer(one)).stops
    served = ServedModel("a", None, Writer(several))
    assert served.stops == served.ends == (several.end_id,) and served.context == 512


def test_names_are_in_the_order_given():
    encoder = encoder_of()
    assert service_of(parrot_of(encoder), encoder).names == ("tuned", "falcon-mini")
