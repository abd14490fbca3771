"""Which decodings an evaluation compares, and in which order."""

from falconer.evaluate.decodings import DECODINGS, other_decodings, run_decodings
from falconer.model.engine import Decoding
from falconer.records import Prediction


def test_they_are_all_others_of_the_same_length_and_seed() -> None:
    greedy = Decoding(max_new_tokens=9, seed=4)
    others = other_decodings(greedy)
    assert len({str(one) for one in [greedy, *others]}) == len(DECODINGS)
    assert {(one.max_new_tokens, one.seed) for one in others} == {(9, 4)}
    # One that is not among them is compared with all of them.
    assert other_decodings(Decoding(9, top_k=3, temperature=0.3, seed=4))[0] == greedy
    assert len(other_decodings(Decoding(9, top_k=3, temperature=0.3, seed=4))) == len(DECODINGS)


def test_the_evaluations_own_comes_first_and_is_not_generated_again() -> None:
    asked = []

    def reply(name: str, decoding: Decoding) -> list[Prediction]:
        asked.append((name, decoding))
        return [Prediction("d", 1, str(decoding), "gold")]

    own, others = Decoding(), [Decoding(num_beams=2), Decoding(no_repeat_ngram_size=3)]
    found = run_decodings(reply, own, others, [Prediction("d", 1, "own", "gold")])
    assert asked == [("decoding 1 of 2", others[0]), ("decoding 2 of 2", others[1])]
    assert [rows[0].prediction for rows in found.values()] == ["own", *map(str, others)]
    assert list(found) == [str(own), *map(str, others)]
