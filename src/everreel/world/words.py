"""The words that captions are made of: for each value of each field, ways of saying it in English.

The one invariant: the first form of each entry is the plain one, and no form says more than its field.
"""

from __future__ import annotations

Verb = tuple[str, str]  # "runs", "running"

KINDS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("fox", "cat", "dog", "rabbit", "bear", "elephant", "horse"), ("Animal", "Mammal")),
    **dict.fromkeys(("swan", "duck", "owl", "penguin"), ("Animal", "Bird")),
    "turtle": ("Animal", "Reptile"),
    "fish": ("Animal", "Fish"),
    "butterfly": ("Animal", "Insect"),
    "woman": ("Human", "Woman"),
    "man": ("Human", "Man"),
    "robot": ("Object", "Robot"),
    "car": ("Vehicles", "Car"),
    "bus": ("Vehicles", "Bus"),
    "boat": ("Vehicles", "Ship"),
    "airplane": ("Vehicles", "Aircraft"),
    "balloon": ("Vehicles", "Balloon"),
    "ball": ("Sport", "Football"),
}
SUBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "rabbit": ("rabbit", "bunny"),
    "dog": ("dog", "puppy"),
    "cat": ("cat", "kitty"),
    "turtle": ("turtle", "tortoise"),
    "woman": ("woman", "lady"),
    "man": ("man", "guy"),
    "car": ("car", "automobile"),
    "boat": ("boat", "sailboat", "sailing boat"),
    "airplane": ("airplane", "plane", "aeroplane"),
    "balloon": ("balloon", "hot-air balloon", "hot air balloon"),
    "ball": ("ball", "soccer ball", "football"),
}
ACTION_WORDS: dict[str, tuple[Verb, ...]] = {
    "walks": (("walks", "walking"), ("strolls", "strolling"), ("is walking", "walking")),
    "runs": (("runs", "running"), ("dashes", "dashing"), ("sprints", "sprinting"), ("is running", "running")),
    "jumps": (
        ("jumps", "jumping"),
        ("leaps", "leaping"),
        ("jumps up and down", "jumping up and down"),
        ("is jumping", "jumping"),
    ),
    "swims": (("swims", "swimming"), ("is swimming", "swimming"), ("paddles", "paddling")),
    "flies": (("flies", "flying"), ("is flying", "flying"), ("soars", "soaring")),
    "bounces": (
        ("bounces", "bouncing"),
        ("is bouncing", "bouncing"),
        ("bounces up and down", "bouncing up and down"),
    ),
    "spins": (
        ("spins", "spinning"),
        ("spins around", "spinning around"),
        ("turns round and round", "turning round and round"),
        ("is spinning", "spinning"),
    ),
    "stays": (
        ("stays", "staying"),
        ("stands still", "standing still"),
        ("stays in place", "staying in place"),
        ("stands", "standing"),
        ("waits", "waiting"),
    ),
}
_DRIVES_SLOWLY: tuple[Verb, ...] = (
    ("drives slowly", "driving slowly"),
    ("drives", "driving"),
    ("rolls along", "rolling along"),
)
_RACES: tuple[Verb, ...] = (("races", "racing"), ("drives fast", "driving fast"), ("speeds", "speeding"))
_PARKS: tuple[Verb, ...] = (
    ("stands still", "standing still"),
    ("is parked", "parked"),
    ("stays in place", "staying in place"),
)
_WADDLES: tuple[Verb, ...] = (("walks", "walking"), ("waddles", "waddling"), ("is walking", "walking"))
_HOVERS: tuple[Verb, ...] = (
    ("stays", "staying"),
    ("hovers in place", "hovering in place"),
    ("stays in place", "staying in place"),
)
_RESTS: tuple[Verb, ...] = (
    ("stays", "staying"),
    ("rests", "resting"),
    ("lies still", "lying still"),
    ("stays in place", "staying in place"),
)
SUBJECT_ACTION_WORDS: dict[tuple[str, str], tuple[Verb, ...]] = {
    ("car", "walks"): _DRIVES_SLOWLY,
    ("bus", "walks"): _DRIVES_SLOWLY,
    ("car", "runs"): _RACES,
    ("bus", "runs"): _RACES,
    ("car", "stays"): _PARKS,
    ("bus", "stays"): _PARKS,
    ("airplane", "stays"): _PARKS,
    ("duck", "walks"): _WADDLES,
    ("penguin", "walks"): _WADDLES,
    ("turtle", "walks"): (("walks", "walking"), ("crawls", "crawling"), ("is walking", "walking")),
    ("horse", "runs"): (("runs", "running"), ("gallops", "galloping"), ("is running", "running")),
    ("boat", "swims"): (("sails", "sailing"), ("is sailing", "sailing"), ("swims", "swimming")),
    ("boat", "stays"): (
        ("stays", "staying"),
        ("lies at anchor", "lying at anchor"),
        ("lies still", "lying still"),
    ),
    ("balloon", "flies"): (("flies", "flying"), ("drifts", "drifting"), ("floats", "floating")),
    ("butterfly", "flies"): (("flies", "flying"), ("flutters", "fluttering"), ("is flying", "flying")),
    ("airplane", "spins"): (("spins", "spinning"), ("rolls", "rolling"), ("spins around", "spinning around")),
    ("fish", "jumps"): (
        ("jumps", "jumping"),
        ("leaps from the water", "leaping from the water"),
        ("leaps", "leaping"),
    ),
    ("fish", "stays"): _HOVERS,
    ("butterfly", "stays"): _HOVERS,
    ("ball", "stays"): _RESTS,
    ("balloon", "stays"): _RESTS,
    ("swan", "stays"): _RESTS,
    ("duck", "stays"): _RESTS,
    ("swan", "swims"): (("swims", "swimming"), ("glides", "gliding"), ("is swimming", "swimming")),
    **{
        (who, "spins"): (("spins", "spinning"), ("twirls", "twirling"), ("spins around", "spinning around"))
        for who in ("woman", "man")
    },
}
DIRECTION_WORDS = ("{0}", "to the {0}", "{0}", "to the {0}", "from {1} to {0}", "towards the {0}")
FORWARD = ("towards the camera", "toward the camera", "towards us")
BACKWARD = ("away from the camera", "away from us", "away")
EXPRESSION_WORDS: dict[str, tuple[str, ...]] = {
    "neutral": ("calm", "neutral", "neutral-looking"),
    "happy": ("happy", "smiling", "happy", "cheerful"),
    "sad": ("sad", "unhappy", "sad-looking"),
    "angry": ("angry", "angry-looking", "furious"),
    "surprised": ("surprised", "surprised-looking", "astonished"),
}
PLACE_NOUNS: dict[str, tuple[str, ...]] = {
    "forest": ("forest", "wood", "pine forest"),
    "meadow": ("meadow", "flower meadow", "field of flowers"),
    "beach": ("beach", "sandy beach", "seaside beach"),
    "desert": ("desert", "desert with cacti", "sandy desert"),
    "mountains": ("mountains", "the mountains", "mountain landscape"),
    "city": ("city", "city street", "big city"),
    "village": ("village", "small village", "village with red roofs"),
    "lake": ("lake", "quiet lake", "lake with reeds"),
    "park": ("park", "city park", "park with a fountain"),
    "snowfield": ("snowfield", "field of snow", "icy snowfield"),
    "moon": ("the moon", "the surface of the moon", "the moon"),
    "room": ("room", "living room", "room with a window"),
    "underwater": ("underwater", "under water", "deep under water"),
}
TIME_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("by day", "in daylight", "during the day", "in the daytime"),
    "dawn": ("at dawn", "at sunrise", "at daybreak", "in the early morning"),
    "dusk": ("at dusk", "at sunset", "in the evening light", "at twilight"),
    "night": ("at night", "in the night", "by night", "at nighttime"),
}
WEATHER_WORDS: dict[str, tuple[str, ...]] = {
    "clear": ("under a clear sky", "in clear weather", "with a clear sky"),
    "cloudy": ("under a cloudy sky", "in cloudy weather", "under gray clouds"),
    "rain": ("in the rain", "while it rains", "in pouring rain"),
    "snow": ("in falling snow", "while it snows", "with snow falling"),
    "fog": ("in the fog", "in thick fog", "in the mist"),
}
WEATHER_ADJECTIVES = {"cloudy": "cloudy", "rain": "rainy", "snow": "snowy", "fog": "foggy"}
SHOT_WORDS: dict[str, tuple[str, ...]] = {
    "extreme_close_up": ("extreme close-up", "extreme close-up shot", "extreme closeup"),
    "close_up": ("close-up", "close-up shot", "closeup"),
    "medium_shot": ("medium shot", "mid shot", "half-body shot"),
    "full_shot": ("full shot", "full-body shot", "full shot"),
    "long_shot": ("wide shot", "long shot", "wide shot", "seen from far away"),
}
ANGLE_WORDS: dict[str, tuple[str, ...]] = {
    "eye_level": ("at eye level", "eye-level shot", "eye level"),
    "high_angle": ("from a high angle", "high angle", "from above", "high-angle shot"),
    "low_angle": ("from a low angle", "low angle", "from below", "low-angle shot"),
}
POSITION_WORDS: dict[str, tuple[str, ...]] = {
    "front_view": ("front view", "seen from the front", "facing the camera"),
    "back_view": ("seen from behind", "back view", "from behind"),
    "side_view": ("side view", "seen from the side", "in profile"),
}
_PAN = ("the camera pans {0}", "camera pans {0}", "the camera pans to the {0}", "pan {0}", "panning {0}")
_TRACK = (
    "tracking shot to the {0}",
    "the camera tracks {0}",
    "the camera moves along to the {0}",
    "camera tracking {0}",
    "tracking {0}",
)
_TILT = ("the camera tilts {0}", "camera tilts {0}", "tilt {0}", "the camera tilts slowly {0}")
_ZOOM = ("the camera zooms {0}", "camera zooms {0}", "zoom {0}", "slow zoom {0}", "zooming {0}")
CAMERA_WORDS: dict[str, tuple[str, ...]] = {
    "static": (
        "static camera",
        "the camera does not move",
        "the camera stays still",
        "static shot",
        "still camera",
    ),
    **{f"pan_{way}": tuple(w.format(way) for w in _PAN) for way in ("left", "right")},
    **{f"tilt_{way}": tuple(w.format(way) for w in _TILT) for way in ("up", "down")},
    **{f"zoom_{way}": tuple(w.format(way) for w in _ZOOM) for way in ("in", "out")},
    **{f"tracking_{way}": tuple(w.format(way) for w in _TRACK) for way in ("left", "right")},
}
