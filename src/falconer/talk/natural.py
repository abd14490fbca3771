"""Natural text of a reply while it is generated, for models that were trained on Persona-Chat's spaced text.

`data/text.natural` looks at a whole text: a capital letter at its end keeps the case of its beginning. A reply is shown
word by word, so here what stands before a word decides. Up to the first capital letter or piece of code, a line is
restyled as `natural` restyles lower case; from the first capital letter on, its case is kept; from the first piece of
code or address on, it stays as it is. For a line that is all of one kind, this is `natural`.
"""

import re

from falconer.data.text import as_sentences, find_code, is_restyled, join_marks

# No rule looks across a word of two letters or more: when the line grows, only what follows the last such word is
# restyled again.
_BORDER = re.compile(r"(?<!\S)[^\W\d_]{2,}(?!\S)")
_WORD = re.compile(r"\S+")
# Words before the last one that it may still change: "u. s" becomes "U.S." with a full stop, "I" becomes "in't".
_INITIAL = re.compile(r"\w\.|[iI]")
_SPACE = re.compile(r"\s")
# Characters of the window from which it is shortened, and from which it is restyled only when it has grown by an
# eighth: so long without a border, it is no sentence.
_LONG, _TOO_LONG = 40, 160


class NaturalLine:
    """One line of a reply that is being generated: gives natural text that no later character can change.

    Args:
        language: of the training data, an ISO 639 code.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self._is_code = not is_restyled(language)
        self._is_cased = language != "en"
        # The text from the last border on, as the model wrote it, and how much of its restyled form was given.
        self._window = ""
        self._num_given = 0
        self._enough = 0  # characters that the window must have to be looked at again
        self._is_empty = True

    def add(self, text: str) -> str:
        """Return the next piece of natural text; "" if nothing is settled."""
        if self._is_empty:
            text = text.lstrip()
            self._is_empty = not text
        self._window += text
        # A word is settled only when another one follows.
        if not self._is_code and (len(self._window) < self._enough or not _SPACE.search(text)):
            return ""
        before = self._divide()
        return before + (self._as_it_is() if self._is_code else self._settle())

    def end(self) -> str:
        """Return the rest of the line."""
        before = self._divide()
        return before + (self._as_it_is() if self._is_code else self._restyled(self._window)[self._num_given :])

    def _settle(self) -> str:
        restyled = self._restyled(self._window)
        settled = _settled(restyled)
        piece = restyled[self._num_given : settled]
        self._num_given = max(self._num_given, settled)
        if len(self._window) > _LONG:
            self._shorten()
        self._enough = len(self._window) * 9 // 8 if len(self._window) > _TOO_LONG else 0
        return piece

    def _divide(self) -> str:
        """Go on to the next kind of text where it begins, and return the rest of the text before it."""
        given = ""
        while not self._is_code:
            code = find_code(self._window)
            places = [_start_of_word(self._window, code.end() - 1)] if code else []
            if not self._is_cased and self._window != self._window.lower():
                words = _WORD.finditer(self._window)
                places.append(next(word.start() for word in words if word[0] != word[0].lower()))
            if not places:
                break
            place = min(places)
            head = self._window[:place]
            if head.strip():
                given += self._restyled(head)[self._num_given :] + head[len(head.rstrip()) :]
            self._window, self._num_given = self._window[place:], 0
            self._is_cased, self._is_code = True, bool(code) and places[0] == place
        return given

    def _as_it_is(self) -> str:
        piece = self._window.rstrip()
        self._window = self._window[len(piece) :]
        return piece

    def _restyled(self, text: str) -> str:
        return join_marks(text, self._language) if self._is_cased else as_sentences(text.strip())

    def _shorten(self) -> None:
        """Let the window begin at its last border whose restyled form has been given."""
        for border in reversed(list(_BORDER.finditer(self._window))):
            num_before = len(self._restyled(self._window[: border.end()]))
            if border.start() and num_before <= self._num_given:
                # The border's own length is the same in both styles.
                self._num_given += len(border[0]) - num_before
                self._window = self._window[border.start() :]
                break


def natural_line(text: str, language: str) -> str:
    """Return the natural text of a whole line of a reply."""
    line = NaturalLine(language)
    return line.add(text) + line.end()


def _start_of_word(text: str, place: int) -> int:
    while place and not text[place - 1].isspace():
        place -= 1
    return place


def _settled(text: str) -> int:
    """Return how much of a line's restyled text no later word can change: not its last word, nor letters before it."""
    words = list(_WORD.finditer(text))
    if words:
        words.pop()
    while words and _INITIAL.fullmatch(words[-1][0]):
        words.pop()
    return words[-1].end() if words else 0
