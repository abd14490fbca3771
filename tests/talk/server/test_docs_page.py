"""The page about the interface: it shows the schema, runs nothing and loads nothing."""

import re

from falconer.talk.server.docs_page import page


def test_all_fields_and_statuses_stand_on_the_page(server):
    schema = server.ask("GET", "/openapi.json").json
    shown = page(schema, ["<b>tuned</b>"])
    assert "&lt;b&gt;tuned" in shown.content and "<b>tuned" not in shown.content
    for name in ("temperature", "top_logprobs", "number, from 0 to 2; default 0.7", "max_tokens"):
        assert name in shown.content
    assert re.search(r"<td>429</td><td>The queue is full", shown.content)
    assert not re.search(r"<script|<link|<img|src=|https?://(?!HOST)|@import|url\(", shown.content)
    assert shown.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")


def test_without_names_no_model_is_shown(server):
    shown = page(server.ask("GET", "/openapi.json").json, [])
    assert "tuned" not in shown.content and "the name of a model" in shown.content and "NAME" in shown.content
