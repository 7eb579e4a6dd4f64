"""English as far as the built-in fusion needs it: fields of a caption as sentences about a subject.

What captioners write into a field is now "runs to the right", now "Standing at a window", now a whole sentence. The one
invariant: a sentence has every word of its field in the field's own order and spelling, but for the first letter; what
is not surely the predicate of a subject stays a sentence of its own, and no name loses its capital.
"""

from __future__ import annotations

import re

from everreel.caption.schema import Subject

_ARTICLES = ("a", "an", "the")
_COUNTS = ("one", "two", "three", "four", "five", "several", "some", "many", "both")
_OPENERS = {*_ARTICLES, *_COUNTS, "this", "that", "these", "those", "his", "her", "its", "their", "he", "she", "it"}
_PREPOSITION_WORDS = """
    about above across against along amid among around at atop before behind below beneath beside between beyond by
    down facing from in indoors inside near off on opposite outdoors outside over past through to toward towards
    under underneath underwater up upon with within without
"""
_PREPOSITIONS = frozenset(_PREPOSITION_WORDS.split())
_AUXILIARIES = {"is", "are", "was", "were", "has", "have", "does", "do", "can", "will", "seems", "appears"}
# What a captioner may begin the telling of an action with; of any other word it is not sure that it is a verb.
_VERBS = """
    adjust admire aim approach argue arrive ascend attack bark bathe beg bend bite blink bloom blow board bounce bow
    breathe brush build burn bury call carry catch cause celebrate change chase chat check cheer chew circle clap
    clean climb close collect comb come confront continue converse cook cover crash crawl creep cross crouch cry cut
    dance dash descend dip dive dodge drag draw drift drink drive drop eat embrace emerge enter examine exit explain
    explore express extend face fall feature feed fight fill fire fix flap flee float flow flutter fly focus follow
    gallop gather gaze gesture get give glance glide glow go grab graze greet grin grip grow guide hang hit hold hop
    hover hug hunt inspect interact jog join jump kick kneel knit land laugh lay lead lean leap leave lie lift light
    listen look lower make march meet mix move nod observe open paddle paint pan part pass pat pause peek pet pick
    place play point pose pour practice prance prepare press pull push put race raise reach react read recline
    reflect release remain remove repair rest reveal ride rise roam roar rock roll rotate row rub run rush sail scan
    score scream scroll search shake shift shine shoot shop shout show sing sip sit skate ski slam sleep slide slow
    smell smile smoke sniff snow soar speak speed spin splash spray spread sprint squat stack stand stare start stay
    step stir stop stretch stride stroll surf surround sway swim swing swirl take talk tap taste tell throw tie tilt
    touch tour tower track trail train travel tremble trot try tug turn twirl twist type use vanish waddle wag wait
    wake walk wander wash watch wave wear weave whisper wield wipe work wrap write yawn yell zoom
"""
_STEMS = frozenset(_VERBS.split())
_MODALS = {"can", "will"}  # which are followed by a verb, or are the names of people
# A capital is a name's, or that of the first word; where a field has more capitals than one, these words are no names.
_KINDS = """
    adult air airplane animal baby bear beetle big bird black blue boat boy brown building bull bus butterfly car
    cartoon cat character child city classic close cloud couple creature crowd dog double elderly electric emperor
    fashion female field figure fire fish fishing flower flying football forest fox game girl golden green grey group
    guitar hat horse hot house human humpback hunting husky insect jet kitten lake large leaf light little male man
    marine martial middle-aged military monkey motor mountain natural night ocean old older owl palm passenger person
    phone pickup plane plant player polar police puppy race racing red retriever river road robot rock rocket row
    runner running sailing scene school sea ship shop singer skate ski small snow soldier space sport sports stone
    street student table tall taxi teddy teen teenage toy traffic train tree truck turtle van vehicle vintage violin
    wall water waterfall whale white wild wind wolf woman wooden yellow young younger
"""
_LIGHTS = """
    afternoon ambient artificial backlit balanced blue bright brightly cinematic clear cloudy cold colorful contrasting
    cool dark dawn day daytime deep diffuse diffused dim dimly direct dramatic dusk early even evening evenly faint
    flat fluorescent foggy gloomy glowing golden gray green grey hard harsh hazy high indirect indoor intense late low
    medium midday mild mixed moody moonlit morning muted natural neon neutral night nighttime noon normal orange
    outdoor overcast pale pink purple red shadowy sharp silhouetted soft softly standard strong studio subdued subtle
    sunlit sunny sunrise sunset twilight uniform very vibrant vivid warm well-lit white yellow
"""
_ORDINARY = frozenset((*_KINDS.split(), *_LIGHTS.split()))
# Of peoples and lands, which have a capital wherever they stand.
_PEOPLE = """
    african alaskan american arabian asian australian belgian bengal bernese brazilian british burmese canadian chinese
    cuban danish dutch egyptian english european french german greek hawaiian himalayan indian irish italian japanese
    korean maltese mexican norwegian persian polish roman russian scottish siamese siberian spanish swedish swiss thai
    tibetan turkish ukrainian vietnamese welsh
"""
_PEOPLES = frozenset(_PEOPLE.split())
_NO_PARTICIPLES = {
    *(
        "morning",
        "evening",
        "building",
        "ceiling",
        "clothing",
        "lighting",
        "painting",
        "during",
        "nothing",
        "something",
    ),
    *("everything", "anything", "string", "spring", "wedding", "king", "ring", "wing", "thing", "sling", "swing"),
}
_PARTICIPLES = {
    *(
        "seated",
        "dressed",
        "positioned",
        "located",
        "placed",
        "parked",
        "situated",
        "centered",
        "covered",
        "surrounded",
    ),
    *("focused", "engaged", "shown", "seen", "held", "tied", "clad", "perched", "gathered", "lined", "set", "turned"),
}
_SIDES = {
    **dict.fromkeys(("center", "centre", "middle", "foreground", "background", "midground"), "in the"),
    **dict.fromkeys(("left", "right"), "on the"),
    **dict.fromkeys(("top", "bottom", "front", "edge"), "at the"),
}
_MOODS = {
    "anger": "angry",
    "disgust": "disgusted",
    "fear": "afraid",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprise": "surprised",
}
_LOOKS = ("smile", "frown", "grin", "smirk", "scowl", "laugh")
_AFTER_NOUN = {*_PREPOSITIONS, "of", "wearing", "who", "that", "which", "whose", "made", "and", "dressed", "holding"}
_NOTHING = {"", "none", "n/a", "na", "null", "nil", "unknown", "not applicable", "not visible", "other"}
_ENDS = ".!?…。！？"  # noqa: RUF001 -- those of Chinese too
_ORDINALS = ("", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def cleaned(text: str) -> str:
    """One line without a bullet before it, doubled full stops or an end that hangs; empty where it says nothing."""
    text = re.sub(r"^(?:[-–—*•]+(?:\s+|$))+", "", " ".join(text.split()))
    text = re.sub(r"\s+([.,;:!?])", r"\1", text)
    text = re.sub(r"([.。])\1+", r"\1", text)
    text = re.sub(r"[\s,;:\-–—]+$", "", text)
    return "" if text.lower().strip(" .-–—") in _NOTHING else text


def sentence(text: str) -> str:
    """With a capital letter and an end, and no other letter changed; empty where it says nothing."""
    text = cleaned(text)
    if not text:
        return ""
    ended = text.rstrip("\"'”\u2019)")[-1:] in tuple(_ENDS)
    return text[0].upper() + text[1:] + ("" if ended else ".")


def clause(name: str, text: str) -> str | None:
    """What is said of a name in one sentence without its end, or none where that is not surely a predicate of it."""
    text = cleaned(text)
    words = [word.strip(".,;:!?") for word in text.split()]
    while len(words) > 1 and re.fullmatch(r"[A-Za-z]{2,}ly", words[0]):  # slowly walks
        words = words[1:]
    if not words:
        return None
    first = words[0]
    low = first.lower()
    if low in _MODALS and first[0].isupper() and not _has_bare_verb(words[1:]):
        return None  # Will stands at a window
    if low in _AUXILIARIES or _is_verb(low):
        return f"{name} {_lower(text)}"
    participle = low in _PARTICIPLES or _is_participle(first)
    return f"{name} {_is(name)} {_lower(text)}" if participle or low in _PREPOSITIONS else None


def expression_clause(name: str, text: str) -> str | None:
    """As `clause`, of a mood: "happy", "a gentle smile", "neutral expression"."""
    text = cleaned(text).rstrip(".")
    words = text.lower().split()
    if not words:
        return None
    has = "have" if _is_plural(name) else "has"
    if len(words) == 1 and words[0] in _MOODS:
        return f"{name} {_looks(name)} {_MOODS[words[0]]}"
    if words[0] in (*_ARTICLES, "no"):
        return None if any(map(_is_finite, words)) else f"{name} {has} {_lower(text)}"
    found = clause(name, text)
    if found is not None or any(map(_is_finite, words)):
        return found
    if words[-1] in ("expression", "look", *_LOOKS) and len(words) <= 4:
        return f"{name} {has} {with_article(_lower(text))}"
    # Words alone are moods; with a comma or more of them they may be anything.
    return f"{name} {_looks(name)} {_lower(text)}" if len(words) <= 3 and "," not in text else None


def position_clause(name: str, text: str) -> str | None:
    """As `clause`, of a place in the frame: "Center of the frame", "on the left"."""
    text = cleaned(text)
    first = text.split(" ")[0].lower().strip(",") if text else ""
    if first in _SIDES:
        return f"{name} {_is(name)} {_SIDES[first]} {_lower(text)}"
    return clause(name, text)


def is_noun_phrase(text: str) -> bool:
    """Whether it names something without saying anything of it: "A red fox", "a man in a dark suit"."""
    words = text.lower().split()
    if not words or words[0] not in (*_ARTICLES, *_COUNTS) or re.search(r"[.,;:!?]", text):
        return False
    return 2 <= len(words) <= 10 and not any(map(_is_finite, words[1:]))


def noun_of(subject: Subject) -> str:
    """What to call a subject in one word: "fox", "woman", "ship"; "subject" where nothing tells."""
    kind, sub_kind = (cleaned(part) for part in (subject.TYPES.type, subject.TYPES.sub_type))
    is_person = kind.lower() == "human"
    appearance = cleaned(subject.appearance).rstrip(".")
    names_it = is_noun_phrase(appearance) and not (is_person and sub_kind)
    if names_it and (head := _head(appearance)) != appearance.split()[0]:
        return head
    if not sub_kind and is_person:
        return "person"
    noun = _small(sub_kind or kind or "subject")
    return noun[:-1] if noun.lower() == kind.lower() and re.search(r"[^s]s$", noun) else noun


def numbered(nouns: list[str]) -> list[tuple[str, str]]:
    """Of each noun how it is brought in and how it is named then: "a man" and "the man", "a second man" and so on."""
    found = []
    for place, noun in enumerate(nouns):
        before = nouns[:place].count(noun)
        which = _ORDINALS[before] if before < len(_ORDINALS) else "other"
        called = f"{which} {noun}".strip()
        plural = _is_plural(noun)
        new = f"more {noun}" if plural and before else noun if plural else with_article(called)
        found.append((new, f"the {called}"))
    return found


def with_article(text: str) -> str:
    """With "a" or "an" before it."""
    return f"{'an' if text[:1].lower() in 'aeiou' else 'a'} {text}"


def opens_sentence(text: str) -> bool:
    """Whether it begins as a sentence does that names its own subject: "The man walks"."""
    return text.split(" ")[0].lower().strip(",") in _OPENERS if text else False


def ordinary(text: str) -> str:
    """With a small first letter, where the first word is surely no name: "Soft", but not "Rembrandt style"."""
    first = re.split(r"[\s,.;:]", text, maxsplit=1)[0]
    return _lower(text) if first.lower() in _OPENERS | _PREPOSITIONS | _ORDINARY else text


def _small(kind: str) -> str:
    """What a subject is, within a sentence: "Woman" and "Sports Car" are written as names are, and are none."""
    words = kind.split()
    capitals = [word for word in words if word[:1].isupper()]
    if len(words) > 1 and len(capitals) == len(words) and not _ORDINARY.issuperset(kind.lower().split()):
        return kind  # Eiffel Tower
    return " ".join(word if _is_name(word) else word.lower() for word in words)


def _is_name(word: str) -> bool:
    """By itself, wherever it stands: "I", "TV", "Anna's", "German"."""
    stands_alone = len(word) == 1 and word != "A"
    whose = word[:1].isupper() and word.endswith(("'s", "\u2019s"))
    return stands_alone or word[1:].lower() != word[1:] or whose or word.lower() in _PEOPLES


def _lower(text: str) -> str:
    """With a small first letter, where the first word is one of the language's own; "I" and "Mona Lisa" stay."""
    first, *more = re.split(r"(?=[\s,.;:])", text, maxsplit=1)
    low = first.lower()
    # A verb or the like may have a name behind it: Holding Anna.
    leads = low in _OPENERS | _AUXILIARIES | _PREPOSITIONS | _PARTICIPLES | _ORDINARY
    leads |= _is_verb(low) or _is_participle(first)
    of_two = first[:1].isupper() and not leads and bool(re.match(r" [A-Z]", "".join(more)))
    is_name = of_two or _is_name(first)
    return text if is_name else text[0].lower() + text[1:]


def _has_bare_verb(words: list[str]) -> bool:
    """Whether they begin with a verb as it follows "will", or with what may stand between."""
    between = ("not", "be", "have", "also", "soon", "then", "now")
    first = next((word.lower() for word in words if not re.fullmatch(r"[A-Za-z]{2,}ly", word)), "")
    return first in between or first in _STEMS


def _stems(word: str) -> set[str]:
    """What a form of a verb may come from: "running" of run, "tries" of try."""
    found = set()
    for ending in ("ing", "es", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            stem = word.removesuffix(ending)
            found |= {stem, stem + "e"} | ({stem[:-1]} if stem[-1:] == stem[-2:-1] else set())
    if word.endswith("ies"):
        found.add(word[:-3] + "y")
    if word.endswith("ying"):
        found.add(word[:-4] + "ie")
    return found


def _is_verb(word: str) -> bool:
    """In the third person: "walks"."""
    return word.endswith("s") and not word.endswith("ss") and bool(_stems(word) & _STEMS)


def _is_participle(word: str) -> bool:
    """ "Walking"; a word that is not known is one where it is written small: names end in -ing too."""
    low = word.lower()
    if not low.endswith("ing") or low in _NO_PARTICIPLES:
        return False
    return bool(_stems(low) & _STEMS) or (word == low and len(word) > 5)


def _is_finite(word: str) -> bool:
    word = word.lower().strip(".,;:!?")
    return word in _AUXILIARIES or _is_verb(word)


def _head(name: str) -> str:
    """The word that a name is about: "fox" of "a red fox in a wood"."""
    words = name.split()
    end = next((n for n, word in enumerate(words) if n and word.lower() in _AFTER_NOUN), len(words))
    return words[end - 1]


def _is_plural(name: str) -> bool:
    last = _head(name).lower()
    return last in ("people", "children", "men", "women") or bool(re.search(r"[^suio]s$", last))


def _is(name: str) -> str:
    return "are" if _is_plural(name) else "is"


def _looks(name: str) -> str:
    return "look" if _is_plural(name) else "looks"
