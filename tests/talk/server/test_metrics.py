"""Figures: each application has its own, and Prometheus can read them."""

from prometheus_client.parser import text_string_to_metric_families

from falconer.talk.server.bodies import Usage
from falconer.talk.server.metrics import Metrics


def test_each_application_has_its_own():
    one, other = Metrics(), Metrics()
    one.count("a", Usage(10, 4, 7), 2)
    assert b'falconer_completion_tokens_total{model="a"} 7.0' in one.text()
    assert b'falconer_dropped_turns_total{model="a"} 2.0' in one.text()
    assert b'{model="a"}' not in other.text()


def test_prometheus_reads_what_a_server_says(server):
    server.chat()
    server.ask("GET", "/nowhere/else")
    got = server.ask("GET", "/metrics")
    assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(got.body.decode())}
    assert families["falconer_slots"].samples[0].value == 4
    for name in ("running", "queued", "steps", "time_to_first_token_seconds", "time_per_token_seconds"):
        assert families[f"falconer_{name}"].samples, name
    routes = {sample.labels["route"] for sample in families["falconer_requests"].samples}
    assert "/v1/chat/completions" in routes and "other" in routes
    assert not any("nowhere" in route for route in routes), "names that clients choose would fill the memory"
