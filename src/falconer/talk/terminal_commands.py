"""The commands of the chat in a terminal: what each one does to the conversation, and what it shows."""

import os
import random
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from falconer.consoles import counted, visible
from falconer.data.sources import SAMPLE, load_dialogues, write_dialogues
from falconer.errors import FalconerError, nearest
from falconer.talk.personas import sample_personas
from falconer.talk.terminal_screen import BASE, STYLES, TUNED, YOU, label, persona_panel

if TYPE_CHECKING:
    from falconer.talk.session import Session

# What each command does; "FILE" in it: it takes the name of a file.
COMMANDS: Mapping[str, str] = MappingProxyType({
    "/persona": "show the persona; /persona I sing. I run. changes it and starts a new conversation",
    "/random": "take a random persona of Persona-Chat and start a new conversation",
    "/forget": "start a new conversation with the same persona",
    "/retry": "get another reply to the last message",
    "/undo": "take back the last message and its reply",
    "/base": "switch between the tuned model and the base model, in the same conversation",
    "/side": "show the replies of both models side by side, or stop that",
    "/save": "/save FILE: save the conversation in falconer's data format (JSON Lines)",
    "/load": "/load FILE: continue a conversation of a file; /load FILE 3: its third one",
    "/help": "show these commands",
    "/quit": "quit (or press Ctrl-D)",
})  # fmt: skip
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_OVERWRITE = "--overwrite"
_NUM_SHOWN = 10  # turns of a loaded conversation


def obey(command: str, argument: str, session: "Session", console: Console, title: str) -> None:
    """Do what a command says that needs no reply.

    Raises:
        FalconerError: there is no such command, or it can't be done.
    """
    if command == "/persona":
        if argument:
            session.change_persona(_SENTENCE_END.split(argument))
        console.print(persona_panel(session.persona, title))
    elif command == "/random":
        (persona,) = sample_personas(1, random.SystemRandom().randrange(2**32))
        session.change_persona(persona)
        console.print(persona_panel(session.persona, title))
    elif command == "/forget":
        session.forget()
        _say(console, "A new conversation starts.")
    elif command == "/undo":
        _say(console, f"Taken back: {session.undo()}")
    elif command == "/base":
        session.is_base = not session.is_base
        model = "The base model, without the adapter," if session.is_base else "The tuned model"
        _say(console, f"{model} replies from now on. /base switches back.")
    elif command == "/save":
        _save(argument, session, console)
    elif command == "/load":
        _load(argument, session, console, title)
    elif command == "/help":
        _help(console)
    else:
        raise FalconerError(
            f"Unknown command: {command}.",
            f"{nearest(command, COMMANDS)} /help lists all; a message that begins with a slash is written with two.",
        )


def _help(console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    for name, meaning in COMMANDS.items():
        table.add_row(Text(name, style="bold"), Text(meaning, style="dim"))
    for name, meaning in (
        ("Alt-Enter", "a line break in a message (also Ctrl-J)"),
        ("Ctrl-C", "stop the reply"),
        ("Tab", "complete a command or the name of a file"),
    ):
        table.add_row(Text(name, style="bold"), Text(meaning, style="dim"))
    console.print(table)


def _save(argument: str, session: "Session", console: Console) -> None:
    name = argument.removeprefix(_OVERWRITE).strip()
    path = _path(name, "/save FILE")
    if not path.name:
        raise FalconerError(f"'{path}' is a folder.", "Give the name of a file in it.")
    if not path.suffix:
        path = path.with_name(f"{path.name}.jsonl")
    dialogue = session.dialogue(path.name.partition(".")[0] or "chat")
    if os.path.exists(path) and not argument.startswith(f"{_OVERWRITE} "):
        raise FalconerError(f"'{path}' exists.", f"Choose another name, or type: /save {_OVERWRITE} {path}")
    write_dialogues([dialogue], path)
    _say(console, f"{counted(len(dialogue.turns), 'turn')} saved to {path}")


def _load(argument: str, session: "Session", console: Console, title: str) -> None:
    numbered = re.fullmatch(r"(.*\S)\s+(\d{1,9})", argument)
    name, number = argument, 1
    if numbered and not os.path.exists(_path(argument, "/load FILE")):
        name, number = numbered[1], int(numbered[2])
    path = _path(name, "/load FILE")
    # Other names that are no file would be looked for on the hub.
    if name != SAMPLE and not os.path.isfile(path):
        raise FalconerError(f"'{path}' is no file.", "Type the name of a file of dialogues, e.g. one that /save wrote.")
    dialogues = load_dialogues(SAMPLE if name == SAMPLE else str(path)).dialogues
    if not 1 <= number <= len(dialogues):
        raise FalconerError(
            f"'{path}' has {counted(len(dialogues), 'dialogue')}, and none of number {number}.",
            f"Give a number from 1 to {len(dialogues):,}.",
        )
    session.continue_from(dialogues[number - 1])
    console.print(persona_panel(session.persona, title))
    if len(session.turns) > _NUM_SHOWN:
        _say(console, f"{counted(len(session.turns) - _NUM_SHOWN, 'earlier turn')} not shown")
    for turn in session.turns[-_NUM_SHOWN:]:
        speaker = TUNED if turn.speaker == "self" else YOU
        grid = Table.grid()
        grid.add_row(Text(label(speaker), style=STYLES[speaker]), Text(visible(turn.text)))
        console.print(grid)
    if session.turns and session.turns[-1].speaker == "partner":
        _say(console, "The last message has no reply yet: /retry asks for one.")
    if len(dialogues) > 1:
        _say(console, f"This is dialogue {number:,} of {len(dialogues):,}; /load {name} N loads another one.")


def _path(name: str, usage: str) -> Path:
    if not name:
        raise FalconerError("The name of a file is missing.", f"Type: {usage}")
    if "\0" in name:
        raise FalconerError("The name of a file can't contain the character U+0000.", "Choose another name.")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise FalconerError(f"'{name}' names the home folder of an unknown user.", "Write the whole path.") from None


def _say(console: Console, text: str) -> None:
    console.print(Text(visible(text), style="dim"))


def replier(session: "Session") -> str:
    """Return the label of the model that replies at the moment."""
    return BASE if session.is_base else TUNED
