"""Chat in the terminal, streaming."""

from rich.console import Console

from falconer.talk.session import Session

DEFAULT_PERSONA = (
    "I have two dogs.",
    "I work as a teacher.",
    "I love to cook Italian food.",
    "My favorite color is green.",
)
HELP = "/persona shows who you talk to, /forget starts anew, /quit (or Ctrl-D) ends."


def talk(session: Session, console: Console) -> None:
    """Read lines and stream replies until the user leaves."""
    console.print("persona: " + " ".join(session.persona), style="dim", markup=False)
    console.print(HELP, style="dim")
    while True:
        try:
            text = console.input("[bold]you:[/bold]       ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if text == "/quit":
            return
        if text == "/forget":
            session.forget()
            console.print("Starting anew.", style="dim")
        elif text == "/persona":
            console.print("\n".join(session.persona), markup=False)
        elif text.startswith("/"):
            console.print(HELP, style="dim")
        elif text:
            console.print("[bold]assistant:[/bold] ", end="")
            for piece in session.reply(text):
                console.print(piece, end="", markup=False)
            console.print()
