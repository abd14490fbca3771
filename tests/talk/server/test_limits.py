"""The limits of a server, each seen from outside in the tests of what keeps it."""

from dataclasses import fields

from falconer.talk.server.limits import Limits


def test_every_limit_is_described_and_above_zero():
    for field in fields(Limits):
        assert f"        {field.name}: " in (Limits.__doc__ or "") and getattr(Limits(), field.name) > 0


def test_a_client_is_cut_off_sooner_than_an_answer_ends():
    assert Limits().receive_s < Limits().request_s
