"""`falconer chat`: the options of a chat in the terminal."""

import math
from pathlib import Path
from typing import Annotated

import typer

from falconer import consoles
from falconer.adapter_options import Adapter, open_chosen
from falconer.decoding_limits import MOST_BEAMS, MOST_NGRAM, Scope
from falconer.errors import FalconerError
from falconer.setting_options import ComputedHow, Run, WithSettings
from falconer.talk import decoding

chat_app = typer.Typer()


@chat_app.command(cls=WithSettings)
def chat(
    context: typer.Context,
    overrides: ComputedHow = None,
    run: Run = Path("runs/quickstart"),
    persona: Annotated[
        list[str] | None,
        typer.Option("--persona", metavar="SENTENCE", help="A sentence of the model's persona; repeat it for more."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, metavar="T", help="Sampling temperature; 0 selects greedy decoding.")
    ] = decoding.TEMPERATURE,
    top_p: Annotated[
        float,
        typer.Option("--top-p", min=0, max=1, metavar="P", help="Sample among the likeliest tokens of this mass."),
    ] = decoding.TOP_P,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", min=0.1, metavar="F", help="Above 1, words are repeated less.")
    ] = decoding.REPETITION_PENALTY,
    repetition_penalty_scope: Annotated[
        Scope,
        typer.Option(
            "--repetition-penalty-scope",
            metavar="SCOPE",
            help="Whose words count: prompt: the prompt's and the reply's; own: the model's own; reply: the reply's.",
        ),
    ] = "prompt",
    no_repeat_ngram_size: Annotated[
        int,
        typer.Option(
            "--no-repeat-ngram-size",
            min=0,
            max=MOST_NGRAM,
            metavar="N",
            help="No sequence of so many tokens is said twice; 0: off.",
        ),
    ] = decoding.NO_REPEAT_NGRAM_SIZE,
    no_repeat_ngram_scope: Annotated[
        Scope,
        typer.Option(
            "--no-repeat-ngram-scope",
            metavar="SCOPE",
            help="Said before in the reply; own: in the model's own earlier turns, too; prompt: in the whole prompt.",
        ),
    ] = decoding.NO_REPEAT_NGRAM_SCOPE,
    min_p: Annotated[
        float,
        typer.Option(
            "--min-p", min=0, max=1, metavar="P", help="Sample among tokens of this share of the likeliest one's."
        ),
    ] = decoding.MIN_P,
    num_beams: Annotated[
        int,
        typer.Option(
            "--num-beams",
            min=1,
            max=MOST_BEAMS,
            metavar="N",
            help="Beam search, with --temperature 0; replies are shown when they are whole.",
        ),
    ] = 1,
    length_penalty: Annotated[
        float, typer.Option("--length-penalty", metavar="F", help="Of beam search; higher values: longer replies.")
    ] = 1.0,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, metavar="N", help="The most tokens of a reply.")
    ] = decoding.MAX_NEW_TOKENS,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed for sampling.")] = decoding.SEED,
    adapter: Adapter = "adapter",
) -> None:
    """Chat with a tuned model in the terminal.

    By default, the adapter with the best validation loss is used; use --adapter checkpoints/last for that of the last
    checkpoint.
    """
    for name, value in (
        ("--temperature", temperature), ("--top-p", top_p), ("--repetition-penalty", repetition_penalty),
        ("--length-penalty", length_penalty),
    ):  # fmt: skip
        # Typer's bounds let "nan" through.
        if not math.isfinite(value):
            raise FalconerError(f"{name} {value} is not allowed.", "Give a finite number.")
    if num_beams > 1 and temperature > 0:
        raise FalconerError(
            f"--num-beams {num_beams} and --temperature {temperature} can't be combined: beam search does not sample.",
            "Add --temperature 0, or leave --num-beams out.",
        )
    opened = open_chosen(context, run, adapter, overrides or [])
    from falconer import jobs
    from falconer.model.engine import Decoding
    from falconer.talk.terminal import DEFAULT_PERSONA, talk

    chosen = Decoding(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, repetition_penalty=repetition_penalty,
        seed=seed, min_p=min_p, no_repeat_ngram_size=no_repeat_ngram_size,
        no_repeat_ngram_scope=no_repeat_ngram_scope, repetition_penalty_scope=repetition_penalty_scope,
        num_beams=num_beams, length_penalty=length_penalty,
    )  # fmt: skip
    for note in opened.notes:
        consoles.stderr().print(f"note    {note}", soft_wrap=True)
    session = jobs.open_session(opened, persona or list(DEFAULT_PERSONA), chosen)
    talk(session, consoles.stdout(), title=f"{opened.config.model.name}, tuned in {opened.run}")
