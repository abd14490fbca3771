"""What is corrected or counted in every dialogue, whatever its format."""

import re

from falconer.data.formats.merging import merged
from falconer.data.formats.rows import Quirks, lines
from falconer.records import Dialogue

# UTF-8 that was read as Windows-1252 and written again: "Ã©" for "é", "â€™" for "’", and whole words of Cyrillic or
# Chinese so; the same by way of Windows-1251; what "�" became by way of GBK. And GBK, EUC-KR or Windows-1251 that was
# read as Windows-1252: no language has words of accented letters alone.
_TRAIL = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_TRAIL_1251 = "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—™љ›њќћџ\u00a0ЎўЈ¤Ґ¦§Ё©Є«¬\u00ad®Ї°±Ііґµ¶·ё№є»јЅѕї"
_DOUBLE_ENCODED = re.compile(
    f"Ã[{_TRAIL}]|Â[\u00a0-\u00bf]|â€|ðŸ|(?:[ÐÑ][{_TRAIL}]){{2}}|(?:[ä-é][{_TRAIL}]{{2}}){{2}}|"
    f"(?:[РС][{_TRAIL_1251}]){{3}}|锟斤拷|([À-ÿ])(?!\\1)[¡-ÿ]{{4}}"
)


def mended(dialogue: Dialogue, quirks: Quirks) -> Dialogue:
    """Return a dialogue whose turns alternate and whose persona has one sentence a line.

    Whoever measures repetition, echoes or persona use, and whoever talks with a model, may rely on that.

    Args:
        quirks: counts of turns that were merged, and of dialogues with letters that a wrong encoding left.
    """
    texts = "\n".join([*dialogue.persona, *dialogue.partner_persona, *(turn.text for turn in dialogue.turns)])
    if not texts.isascii():
        quirks["dialogue with letters of a wrong encoding kept"] += bool(_DOUBLE_ENCODED.search(texts))
        quirks["dialogue with replacement characters (U+FFFD) kept"] += "\ufffd" in texts
    return Dialogue(
        dialogue.id.strip(),
        _one_a_line(dialogue.persona),
        merged(dialogue.turns, quirks),
        _one_a_line(dialogue.partner_persona),
    )


def _one_a_line(persona: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(line for sentence in persona for line in lines(sentence))
