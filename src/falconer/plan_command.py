"""`falconer plan`: what a training run costs, here or on other cards, or with --serve which cards can serve a model."""

from typing import Annotated

import typer

from falconer import consoles
from falconer.errors import FalconerError
from falconer.setting_options import Overrides, Preset, WithSettings

plan_app = typer.Typer()


@plan_app.command(cls=WithSettings)
def plan(
    overrides: Overrides = None,
    preset: Preset = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Instead of a training run, plan serving: what fits on which card.")
    ] = False,
    slots: Annotated[
        int, typer.Option("--slots", min=1, max=4096, metavar="N", help="With --serve: replies at the same time.")
    ] = 64,
    adapters: Annotated[
        int, typer.Option("--adapters", min=1, max=1000, metavar="N", help="With --serve: adapters on the base.")
    ] = 1,
    card: Annotated[
        str | None,
        typer.Option("--card", metavar="NAME,...", help="Predict for cards that are not here: rtx-4090, a100, all."),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="With --serve: print Markdown, as in docs/serving.md.")
    ] = False,
) -> None:
    """Predict the memory and time of training, or of serving.

    With --card, the prediction is for other GPUs than this machine's, from their data sheets.
    With --serve, the table has the slots that fit on cards of 8 to 80 GiB, for weights in NF4 and in bf16.
    """
    from falconer.config import load

    if serve and card:
        raise FalconerError("--serve and --card are both given.", "--serve has a table of cards of its own.")
    config = load(preset, overrides or [])
    from falconer.runtime import quiet_libraries

    quiet_libraries()
    if serve:
        from falconer import serve_plan

        planned = serve_plan.plan_serving(config, slots=slots, adapters=adapters)
        if markdown:
            print(serve_plan.as_markdown(planned))
            return
        console = consoles.stdout()
        for line in (*serve_plan.about(planned), serve_plan.title(slots, adapters)):
            console.print(line, soft_wrap=True)
        console.print(serve_plan.serve_plan_table(planned))
        return
    from falconer.train import forecast, plan_table

    console = consoles.stdout()
    if card is None:
        console.print(plan_table.plan_table(forecast.plan_run(config)))
        return
    from falconer.train.cards import cards_of

    plans = forecast.plan_cards(config, cards_of(card))
    if len(plans) == 1:
        console.print(plan_table.plan_table(plans[0]))
    else:
        console.print(plan_table.cards_table(plans))
    for line in plan_table.about_cards(plans):
        console.print(line, soft_wrap=True)
