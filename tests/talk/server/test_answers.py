"""From a request to the worker: what is counted for it."""

from served import CHAT, CHATS, encoder_of, parrot_of, serving


def test_tokens_and_times_are_counted_for_each_model():
    encoder = encoder_of()
    with serving(parrot_of(encoder), encoder) as server:
        usage = [server.chat(n=2).json["usage"], server.chat(stream=True) and server.chat().json["usage"]]
        server.ask("POST", CHATS, {**CHAT, "model": "falcon-mini"})
        figures = server.ask("GET", "/metrics").body.decode()
        size = usage[0]["prompt_tokens"]
        assert f'falconer_prompt_tokens_total{{model="tuned"}} {3 * size:.1f}' in figures
        assert f'falconer_cached_prompt_tokens_total{{model="tuned"}} {3 * (size // 2):.1f}' in figures
        assert f'falconer_completion_tokens_total{{model="tuned"}} {4 * usage[1]["completion_tokens"]:.1f}' in figures
        assert 'falconer_time_to_first_token_seconds_count{model="tuned"} 4.0' in figures
        assert 'falconer_time_per_token_seconds_count{model="falcon-mini"} 1.0' in figures


def test_a_text_that_is_too_long_is_refused_before_the_worker_is_asked(server):
    before = len(server.parrot.asked)
    got = server.chat(messages=[{"role": "system", "content": "I ski. " * 300}, {"role": "user", "content": "Hi!"}])
    assert got.status == 400 and got.error["param"] == "messages" and "tokens too long" in got.error["message"]
    assert len(server.parrot.asked) == before
