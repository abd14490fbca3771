"""What stands in a written-out conversation without being said: stage directions, headings, profiles of the speakers.

A conversation made by a model is told apart only by its wording, so the rules are narrow: a line counts as a direction
in brackets or asterisks, or if it names a time or place ("30 minutes later:", "At the gym") or tells what a speaker
does ("Larry walks over.") just before the next labelled turn. "Ingredients:" and other headings within a reply stay.
"""

import re

_UNIT = (
    r"(?:sec|second|min|minute|hr|hour|day|week|weekend|month|year|decade|morning|afternoon|evening|night|time)s?\b\.?"
)
_NUMBER = (
    r"(?:half an?|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty|thirty|forty|fifty|"
    r"another|a few|several|some|many|\d+|couple|of)"
)
_TIME = (
    rf"(?:{_NUMBER}\s+)*{_UNIT}\s+"
    r"(?:later|pass(?:es)?|go(?:es)? by)|"
    r"(?:much |sometime |a little |a bit |a while )?later(?: (?:that|in|on) [\w' ]{1,25})?|"
    r"(?:on |the next |next )?(?:mon|tues|wednes|thurs|fri|satur|sun)day(?: (?:morning|afternoon|evening|night))?|"
    rf"(?:on |in )?(?:the|that)\s+(?:(?:next|following|same)\s+)?{_UNIT}|(?:the )?(?:next|following)\s+{_UNIT}|"
    r"(?:shortly |soon |right )?(?:after|during)\s+[\w' ]{1,40}|meanwhile[\w' ,]{0,40}|"
    r"(?:at )?\d{1,2}(?::\d\d)?\s?(?:[ap]\.?m\.?)|(?:the )?end(?: of (?:the )?conversation)?|"
    r"(?:the )?(?:conversation|chat|dialogue) ends?"
)
_PLACE = (
    r"(?:back |later )?at (?:the [\w' ]{1,40}|(?:user\s?[12]'s|their|his|her|(?-i:[A-Z])[\w']*) [\w' ]{1,40}|"
    r"(?-i:[A-Z])[\w']+|home|work|school|dinner|lunch)|back (?:in|on|at) [\w' ]{1,40}|"
    r"on the (?:way|phone|bus|train|plane|beach|road|trail)[\w' ]{0,40}|in the [\w']+(?: [\w']+)?|"
    r"(?:in|out)side the [\w' ]{1,30}"
)
_DIRECTION = re.compile(rf"[\W_]*(?:{_TIME}|{_PLACE})(?:,? (?:{_TIME}|{_PLACE}))?\s*[:.\u2026,\W_]*", re.IGNORECASE)
_WHEN = re.compile(rf"(?:{_TIME}),\s+", re.IGNORECASE)
_WHOLE = re.compile(r"\[.*|\(.*\)|\*[^*].*\*|[*\-_=~\s\u2014]+|<[^>]*>")
_HEADING = re.compile(
    r"[\W_]*(?:(?:best |generated |the )*(?:conversation|dialogue|chat)(?: \d+)?(?: between [\w ]+)?|scene \d*)"
    r"[\W_]*:[\W_]*",
    re.IGNORECASE,
)
_PROFILE = re.compile(
    r"[\W_]*(?:(?:user\s*#?[12]|users?)(?:'s?)?\s+)?(?:profiles?|personas?)"
    r"(?:\s+(?:information|of|for|sentences|\(?user\s*#?[12]\)?|#?[12]))*[\W_]*:.*|"
    r"[\W_]*user\s*#?[12](?:'s)?\s+(?:profile|persona)s?[\W_]*",
    re.IGNORECASE,
)
# What people do while they talk, as [laughs] or *smiles at her* within a turn; "[name]" and "[user 1 name]" are
# placeholders, and what stands in round brackets is said more often than done.
_FEELS = (
    r"(?:laugh|smile|nod|sigh|pause|shrug|wink|giggle|chuckle|grin|blushe|crie|gasp|wave|hug|kisse|clap|yawn|think|sing|"
    r"whisper|cheer|frown|cough|count|groan|gesture|hum|snort|sniff|sneeze|clear|roll|shake)s"
)
_DOES = (
    r"(?:dance|point|look|walk|leave|hand|show|take|give|open|start|turn|sit|stand|eat|drink|play|read|type|send|hang|"
    r"pull|raise|pick|put|get|run|stop|wait|come|goe|wipe|hold|arrive|return|enter)s"
)
_WHO = r"(?:(?:user\s*#?[12](?: and user\s*#?[12])?|both users|they) )"
_SINGLE = r"(?:laughing|smiling|sighing|crying|pausing|nodding|winking|silence|pause|laughter)"
_REST = r"(?:\s[^\])*\n]*)?"
_NOUN_OR_VERB = r"[a-z]+s (?:an?|the|his|her|their|at|to|in|out|up|down|with|on|for|off|from|user)\b"
_SEEN = rf"{_WHO}(?:\w+ly )?(?:{_FEELS}|{_DOES}|{_NOUN_OR_VERB}){_REST}|(?:\w+ly )?{_FEELS}{_REST}|{_SINGLE}|{_TIME}"
_INLINE = re.compile(
    rf"(?<!\s)\s*(?:\[(?:{_SEEN}|{_DOES}{_REST})\]|\((?:{_SEEN})\)|(?<!\*)\*(?:{_SEEN})\*(?!\*))", re.IGNORECASE
)
_INTRODUCED = re.compile(r"\b(?:I'm|I am|[Nn]ame is|[Nn]ame's)\s+([A-Z][a-z]+)\b")
_SAID = re.compile(r"\b(?:I|you|me|my|your|we|our|us)\b|\?", re.IGNORECASE)


def is_profile(line: str) -> bool:
    """Tell whether a line opens a list of what a speaker is like, as the prompts that made the corpus had."""
    return bool(_PROFILE.fullmatch(line))


def is_direction(line: str, *, before_label: bool, names: frozenset[str]) -> bool:
    """Tell whether a line without a label is a stage direction or a heading.

    Args:
        line: the line.
        before_label: the next line is labelled, or there is none: a reply does not go on.
        names: what the speakers call themselves.
    """
    if _WHOLE.fullmatch(line) or _HEADING.fullmatch(line):
        return True
    if not before_label or _SAID.search(line):
        return False
    if _DIRECTION.fullmatch(line):
        return True
    # "A few days later, User 1 and User 2 meet again."
    line = line[found.end() :] if (found := _WHEN.match(line)) else line
    who = re.match(
        r"(?i:user ?[12]|both users|the two(?: of them| friends| users)?)(?= [a-z])|[A-Z][a-z]+(?= (?:and|[a-z]+s)\b)",
        line,
    )
    return who is not None and (who[0].lower().startswith(("user", "both users", "the two")) or who[0] in names)


def without_directions(text: str) -> tuple[str, int]:
    """Return a turn's text without directions in brackets or asterisks, and how many there were."""
    kept, count = _INLINE.subn("", text)
    return kept.strip(), count


def introduced_names(text_lines: tuple[str, ...]) -> frozenset[str]:
    """Return the names by which people introduce themselves."""
    return frozenset(name for line in text_lines for name in _INTRODUCED.findall(line))
