"""`falconer score` and `falconer compare`: figures, intervals and tests of predictions files; no model is needed."""

import json
from pathlib import Path
from typing import Annotated

import typer

from falconer import consoles
from falconer.errors import FalconerError

score_app = typer.Typer()

Resamples = Annotated[
    int, typer.Option("--resamples", min=100, metavar="N", help="Number of bootstrap resamples of the dialogues.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of the bootstrap.")]
Reference = Annotated[
    list[Path] | None,
    typer.Option(
        "--reference",
        metavar="FILE",
        help="File with the gold replies, if the predictions file has none; repeat it for several references.",
    ),
]
Lang = Annotated[
    str,
    typer.Option("--language", metavar="CODE", help="Language of the replies: a code such as en, zh, ja, or auto."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@score_app.command()
def score(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="JSON Lines, JSON, TSV, CSV, or one reply per line; also .gz and .zst."),
    ],
    reference: Reference = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="FILE", help="Another predictions file, for a paired test.")
    ] = None,
    resamples: Resamples = 1000,
    seed: Seed = 17,
    language: Lang = "auto",
    submit: Annotated[
        bool,
        typer.Option(
            "--submit", help="Check that FILE replies to all of ConvAI2's validation set, and print its Markdown row."
        ),
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="With --submit: what the system is called in the row.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a predictions file with BLEU, ROUGE-L and F1.

    Computes 95 % intervals; no model is needed. FILE has the fields or columns "prediction" and "reference", or lines
    of the form prediction<TAB>reference. If it has only one reply per line, --reference names the gold replies.

    With --submit, FILE must have the 7,801 replies of ConvAI2's validation set in its order, each with its gold reply,
    and the output is the row for the table in docs/results.md.
    """
    from falconer.evaluate.text.score import score_file

    if submit:
        if against is not None:
            raise FalconerError("--submit and --against are both given.", "A row is of one file; leave out --against.")
        from falconer.evaluate.text.submission import as_submission, markdown_row

        result = score_file(file, reference, resamples=resamples, seed=seed, language="en", check=as_submission)
        print(json.dumps(result.to_json(), allow_nan=False) if as_json else markdown_row(result, name or file.stem))
        return
    if name is not None:
        raise FalconerError("--name is given without --submit.", "Add --submit; the name stands in its row.")
    result = score_file(file, reference, against, resamples=resamples, seed=seed, language=language)
    if as_json:
        print(json.dumps(result.to_json(), allow_nan=False))
        return
    from falconer.evaluate.report.terminal import show_score

    show_score(result, consoles.stdout())


@score_app.command()
def compare(
    systems: Annotated[
        list[Path],
        typer.Argument(
            metavar="SYSTEM", help="Runs or predictions files, each tested against the first; or files of blind votes."
        ),
    ],
    reference: Reference = None,
    resamples: Resamples = 1000,
    seed: Seed = 17,
    language: Lang = "auto",
    as_json: AsJson = False,
) -> None:
    """Test whether runs or predictions files differ significantly.

    Uses a paired bootstrap over dialogues with Holm's correction. All systems must have replied to the same turns.
    For blind votes, of falconer serve or exported from a report, a sign test for each pair of models.
    """
    from falconer.evaluate.text.compare import comparison, read_systems
    from falconer.evaluate.text.votes import duels, is_vote_file

    if all(map(is_vote_file, systems)):
        from falconer.evaluate.report.terminal import votes_table

        found = duels(systems)
        if as_json:
            print(json.dumps({"votes": [duel.to_json() for duel in found]}, allow_nan=False))
        else:
            consoles.stdout().print(votes_table(found))
        return
    result = comparison(read_systems(systems, reference, language), resamples, seed)
    if as_json:
        print(json.dumps(result.to_json(), allow_nan=False))
        return
    from falconer.evaluate.report.terminal import show_comparison

    show_comparison(result, consoles.stdout())
