"""What a prompt says: fields of a scene, and the words that are no field's.

A prompt is cut at its commas and full stops, and read from left to right, the longest phrase first; the first value of
a field is the one that counts. The one invariant: every word is in a phrase that counts, says again what one says, is
one of the few that say nothing by themselves (articles, "of"), or is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from everreel.prompt.lexicon import FILLERS, HINTS, PREPOSITIONS, TOKEN, Entry, is_chinese, lexicon, plain
from everreel.world.scene import PEOPLE, SUBJECT_ACTIONS

Nearest = Callable[[str], Entry | None]
"""What the world has for an English word that is in no table; none if nothing is near."""

_BREAK = re.compile(r"[.,;:!?()\[\]\"“”、。《》「」…]|\n")

_NAMED = {"place", "time", "weather"}  # what a colour may be of, beside the subject
_AND = ("and", "和", "与", "及")


@dataclass
class Reading:
    """What is said, in the order in which it is read."""

    said: dict[str, str] = field(default_factory=dict)
    """Values of fields."""
    own: bool = True
    """All of that in the world's own words."""
    taken: dict[str, str] = field(default_factory=dict)
    """Words that are not the world's own, and the values that they are taken for."""
    details: list[str] = field(default_factory=list)
    """Runs of words that nothing is known for, as they were written."""
    does: list[str] = field(default_factory=list)
    """Such runs that stand where it is said what the subject does."""
    repeated: list[str] = field(default_factory=list)
    """Runs with words that are known, and for which the scene has no room: a second animal."""
    unknown: list[str] = field(default_factory=list)
    """The words of the runs, one by one."""
    hints: set[str] = field(default_factory=set)
    """Fields that words which are not known say something of."""
    chinese: bool = False

    @property
    def settled(self) -> set[str]:
        """Fields that must not be filled in: said, or said in words that are not known."""
        return {*self.said, *self.hints}

    @property
    def nothing(self) -> bool:
        """Whether nothing of it is known."""
        return not self.said


@dataclass
class _Piece:
    """A phrase, or a single word that is none."""

    start: int
    end: int
    words: tuple[str, ...]
    entries: tuple[Entry, ...] | None
    """None for a word that is no phrase."""
    chunk: int
    kept: bool = False

    @property
    def filler(self) -> bool:
        return self.entries is None and self.words[0] in FILLERS


def read(prompt: str, nearest: Nearest | None = None) -> Reading:
    """What a prompt says."""
    pieces = _pieces(prompt)
    reading = Reading(chinese=is_chinese(prompt))
    if nearest is not None:
        for piece in pieces:
            if piece.entries is None and not piece.filler and not _hints(piece) and piece.words[0].isascii():
                entry = nearest(piece.words[0]) if len(piece.words[0]) > 2 else None
                if entry is not None:
                    piece.entries = (entry,)
    subject = next((e.value for p in pieces for e in p.entries or () if e.field == "subject"), None)
    beside: list[tuple[_Piece, Entry]] = []
    for index, piece in enumerate(pieces):
        if piece.entries is None:
            piece.kept = not piece.filler
        else:
            piece.kept = not _place(reading, pieces, index, subject, beside)
    for piece, entry in beside:
        reading.own &= entry.field in reading.said
        counts = reading.said.setdefault(entry.field, entry.value) == entry.value
        piece.kept |= not counts and all(e.beside for e in piece.entries or ())
    _settle_camera(reading)
    _keep(reading, pieces, prompt)
    return reading


def _pieces(prompt: str) -> list[_Piece]:
    """The prompt in phrases and words."""
    text, pieces, start = plain(prompt), [], 0
    edges = [*(match.span() for match in _BREAK.finditer(text)), (len(text), len(text))]
    for chunk, (end, after) in enumerate(edges):
        tokens = list(TOKEN.finditer(text, start, end))
        at = 0
        while at < len(tokens):
            words = tuple(token[0] for token in tokens[at : at + lexicon().longest])
            count, entries = lexicon().says(words)
            last = tokens[at + max(count, 1) - 1]
            found = entries if count else None
            pieces.append(_Piece(tokens[at].start(), last.end(), words[: max(count, 1)], found, chunk))
            at += max(count, 1)
        start = after
    return pieces


def _place(
    reading: Reading, pieces: list[_Piece], index: int, subject: str | None, beside: list[tuple[_Piece, Entry]]
) -> bool:
    """Whether what a phrase says is said, now or by a phrase before it."""
    piece = pieces[index]
    entries = [entry for entry in piece.entries or () if entry.fits(subject)]
    later = [entry for entry in entries if entry.beside]
    mains = _chosen([entry for entry in entries if not entry.beside], subject)
    for entry in mains:
        if entry.field == "expression" and subject is not None and subject not in PEOPLE:
            return False
        if entry.field == "color" and not _is_of_subject(pieces, index, subject):
            return False
        if reading.said.get(entry.field, entry.value) != entry.value:
            return False
    for entry in mains:
        reading.own &= entry.own or entry.field in reading.said
        if not entry.own and piece.words != (entry.value,):
            between = "" if is_chinese(piece.words[0]) else " "
            reading.taken[between.join(piece.words)] = entry.value
        reading.said[entry.field] = entry.value
    beside += [(piece, entry) for entry in later]
    return bool(mains or later)


def _chosen(entries: list[Entry], subject: str | None) -> list[Entry]:
    """One entry a field: said of this subject alone before said of all, and of actions one that it can do."""
    best: dict[str, Entry] = {}
    able = SUBJECT_ACTIONS.get(subject or "", ())
    for entry in sorted(entries, key=lambda e: (e.subjects is None, e.field == "action" and e.value not in able)):
        best.setdefault(entry.field, entry)
    return list(best.values())


def _is_of_subject(pieces: list[_Piece], index: int, subject: str | None) -> bool:
    """Whether a colour is the subject's: "a red fox" and "a man in red", not "a red sunset"."""
    following = [p for p in pieces[index + 1 :] if p.chunk == pieces[index].chunk]
    if following and _fields(following[0]) & _NAMED and following[0].words[0] not in FILLERS:
        return False
    loose = False
    for piece in following:
        if "subject" in _fields(piece):
            return True
        if piece.entries is None and not piece.filler:
            loose = True
        elif not _fields(piece) & {"color", "expression"}:
            break
    return not loose or subject is None or subject in PEOPLE


def _settle_camera(reading: Reading) -> None:
    """A pan goes the way that the subject goes, where nothing else is said."""
    if reading.said.get("camera_motion") in ("pan", "tracking"):
        way = reading.said.get("direction", "right")
        reading.said["camera_motion"] += f"_{way}"


def _keep(reading: Reading, pieces: list[_Piece], prompt: str) -> None:
    """Put what is kept in the reading, runs of words together, with what leads them: "with a top hat"."""
    at = 0
    while at < len(pieces):
        begin = at
        while at < len(pieces) and _goes_on(pieces[begin:at], pieces[at]):
            at += 1
        if at == begin:
            at += 1
            continue
        before = pieces[begin - 1] if begin and pieces[begin - 1].chunk == pieces[begin].chunk else None
        after = pieces[at] if at < len(pieces) and pieces[at].chunk == pieces[begin].chunk else None
        run = pieces[begin:at]
        while run and run[-1].filler:
            run.pop()
            after = None
        if any(piece.kept for piece in run):
            _keep_run(reading, run, prompt, before, after)


def _goes_on(run: list[_Piece], piece: _Piece) -> bool:
    """Whether a piece belongs to a run of words that do not count."""
    if run and (run[-1].chunk != piece.chunk or (piece.words[0] in _AND and any(p.kept for p in run))):
        return False
    return piece.entries is None or piece.kept


def _keep_run(reading: Reading, run: list[_Piece], prompt: str, before: _Piece | None, after: _Piece | None) -> None:
    """A run that ends with a word that is kept, and what stands right before and after it."""
    _note(reading, run)
    end, known = run[-1].end, any(piece.entries for piece in run)
    if _fields(after) & {"subject", "place", "color", "expression"}:
        while run[0].filler:  # "a fluffy" of "a fluffy fox"
            run = run[1:]
    if after is not None and known and _fields(after) & _NAMED:
        end = after.end  # by itself the colour of "a red sunset" would be the subject's
    while run[0].words[0] in (*_AND, "的", "of"):
        run = run[1:]
    text = prompt[run[0].start : end]
    if known:
        reading.repeated.append(text)
    elif "subject" in _fields(before) and (not run[0].filler or run[0].words[0] in ("is", "are", "正", "正在")):
        reading.hints.add("action")
        reading.does.append(text)
    else:
        reading.details.append(text)
        if any(piece.words[0] in PREPOSITIONS for piece in run):
            reading.hints.add("place")


def _fields(piece: _Piece | None) -> set[str]:
    """The fields that a phrase says something of."""
    return {entry.field for entry in piece.entries or ()} if piece is not None else set()


def _note(reading: Reading, run: list[_Piece]) -> None:
    """Name the words that are kept, and the fields that they say something of."""
    for piece in run:
        if piece.kept and not piece.entries:
            reading.unknown += [" ".join(piece.words)] if piece.words[0].isascii() else ["".join(piece.words)]
            reading.hints |= _hints(piece)


def _hints(piece: _Piece) -> set[str]:
    return {name for name, words in HINTS.items() if words & set(piece.words)}
