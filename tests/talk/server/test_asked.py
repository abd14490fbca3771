"""What both kinds of requests ask for."""

from falconer.model.engine import Decoding
from falconer.talk.server.asked import Asked, read_asked, shared_fields
from falconer.talk.server.fields import Ignored, object_schema, read_fields
from falconer.talk.server.limits import Limits

DEFAULT = Decoding(max_new_tokens=40, temperature=0.7, repetition_penalty=1.1)


def test_what_is_not_named_is_the_default_but_for_the_seed():
    one, other = (read_asked({"model": "tuned"}, DEFAULT, None) for _ in range(2))
    assert one == Asked("tuned", one.decoding)
    assert (one.decoding.max_new_tokens, one.decoding.temperature, one.decoding.repetition_penalty) == (40, 0.7, 1.1)
    assert one.decoding.seed != other.decoding.seed, "asking again gives another reply"
    assert read_asked({"model": "tuned", "seed": -5}, DEFAULT, None).decoding.seed == -5


def test_the_lower_limit_of_tokens_counts():
    given = {"model": "tuned", "max_tokens": 9, "max_completion_tokens": 7}
    assert read_asked(given, DEFAULT, None).decoding.max_new_tokens == 7


def test_how_replies_are_kept_from_repeating_is_asked_for():
    given = {
        "model": "tuned", "min_p": 0.1, "no_repeat_ngram_size": 3, "no_repeat_ngram_scope": "own", "num_beams": 1,
        "repetition_penalty_scope": "reply",
    }  # fmt: skip
    decoding = read_asked(read_fields(given, shared_fields(("tuned",), Limits(), DEFAULT)), DEFAULT, None).decoding
    assert (decoding.min_p, decoding.no_repeat_ngram_size, decoding.num_beams) == (0.1, 3, 1)
    assert (decoding.no_repeat_ngram_scope, decoding.repetition_penalty_scope) == ("own", "reply")


def test_a_good_request_fits_the_schema_and_is_read():
    fields = [one for one in shared_fields(("tuned",), Limits(), DEFAULT) if not isinstance(one, Ignored)]
    schema = object_schema(fields, ("model",))
    assert schema["properties"]["temperature"]["default"] == 0.7 and schema["required"] == ["model"]
    body = {"model": "tuned", "stream": True, "stream_options": {"include_usage": True}, "stop": "x", "n": 2}
    asked = read_asked(read_fields(body, fields), DEFAULT, None)
    assert (asked.is_stream, asked.has_usage, asked.stops, asked.num_choices) == (True, True, ("x",), 2)
