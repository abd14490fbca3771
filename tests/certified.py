"""Certificates made up, for tests of what reads and shows them."""

from falconer.share.certificate import Certificate, Drift, Figure, Measured, Origin, Replies, Tokens

ORIGIN = Origin("tiiuae/falcon-7b", None, "apache-2.0", "nf4", "nf4", "0" * 64, "bfloat16")


def drift(kl: float) -> Drift:
    return Drift(Figure(kl, kl * 0.9, kl * 1.1), Figure(30.5, 28.0, 33.0), Figure(0.1, -0.2, 0.4))


def certificate(kl: float = 1e-5, num_equal: int = 50) -> Certificate:
    replies = Replies(200, 50, Figure(97.5, 95.0, 99.5), Figure(99.0, 98.0, 100.0), "greedy, at most 32 tokens")
    measured = Measured(
        "the adapter on its base in NF4", "transformers, fp32", "persona-chat-sample", 50, 350, 5000, Figure(30.4),
        drift(kl), drift(0.3), {"bf16": drift(3e-2)}, replies,
    )  # fmt: skip
    tokens = Tokens(50, num_equal, "" if num_equal == 50 else "Persona:\n- i ski")
    return Certificate("merged", ORIGIN, tokens, measured, (), {"falconer": "0.4.0"}, ("a note",))
