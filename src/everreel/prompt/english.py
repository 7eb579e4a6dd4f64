"""English words for what the film world shows, beside those that its own captions use.

Near kin counts as the same where the world has nothing nearer: a tiger is taken for a cat, and whoever enhances a
prompt says so. The one invariant: no phrase stands for two values of a field, but where the subject decides; then the
first one is taken that the subject can do.
"""

from __future__ import annotations

from collections.abc import Iterator

Table = dict[str, dict[str, str]]

NOUNS: Table = {
    "subject": {
        "fox": "vixen, fox cub, fennec, fennec fox, foxes",
        "cat": "kitten, kittens, cats, feline, tabby, tomcat, pussycat, tiger, lion, leopard, panther, cheetah, lynx",
        "dog": "dogs, puppies, pup, hound, retriever, golden retriever, labrador, husky, corgi, poodle, terrier, "
        "doggy, doggie, wolf, wolves, coyote",
        "rabbit": "rabbits, bunnies, hare, hares",
        "bear": "bears, grizzly, grizzly bear, polar bear, panda, panda bear, teddy bear, bear cub",
        "elephant": "elephants, mammoth, elephant calf",
        "horse": "horses, pony, stallion, mare, foal, donkey, mule, zebra, unicorn, mustang, steed",
        "turtle": "turtles, tortoises, sea turtle, terrapin",
        "swan": "swans, cygnet, goose, geese",
        "duck": "ducks, duckling, ducklings, mallard, drake",
        "owl": "owls, bird, birds, owlet, eagle, hawk, falcon, sparrow, crow, raven, pigeon, parrot, songbird",
        "penguin": "penguins, emperor penguin",
        "fish": "fishes, goldfish, shark, trout, salmon, carp, koi, tuna, clownfish, dolphin, whale",
        "butterfly": "butterflies, moth, monarch butterfly, dragonfly",
        "woman": "women, girl, girls, young woman, old woman, ladies, female, mother, grandmother, princess, queen, "
        "actress, businesswoman, bride",
        "man": "men, boy, boys, young man, old man, guys, gentleman, male, father, grandfather, prince, king, actor, "
        "businessman, soldier, cowboy, person, human, somebody, someone, child, kid",
        "robot": "robots, android, droid, cyborg, humanoid, bot, automaton",
        "car": "cars, auto, sedan, sports car, race car, racing car, taxi, cab, jeep, suv, convertible, vehicle, "
        "limousine",
        "bus": "buses, school bus, coach, minibus, double decker, double decker bus, truck, lorry, van, tram",
        "boat": "boats, ship, ships, yacht, sailing ship, canoe, ferry, kayak, vessel, dinghy, rowboat, rowing boat, "
        "fishing boat",
        "airplane": "airplanes, planes, aircraft, jet, airliner, jumbo jet, jet plane, biplane, glider, "
        "propeller plane",
        "balloon": "balloons, hot air balloons, airship, blimp, zeppelin",
        "ball": "balls, basketball, tennis ball, beach ball, volleyball, rubber ball, soccer balls",
    },
    "color": {
        "red": "crimson, scarlet, ruby, cherry red, vermilion, maroon, burgundy, reddish",
        "orange": "amber, tangerine, apricot, ginger, copper colored",
        "yellow": "golden, gold, lemon yellow, blond, blonde, yellowish",
        "green": "emerald, lime green, olive green, jade green, greenish",
        "blue": "azure, navy, navy blue, cyan, sapphire, turquoise, indigo, cobalt, sky blue, bluish",
        "purple": "violet, lavender, lilac, plum colored, mauve, amethyst",
        "pink": "rosy, rose colored, magenta, fuchsia, pinkish",
        "brown": "tan, beige, chestnut, chocolate brown, bronze, hazel, brownish",
        "white": "ivory, snow white, cream colored, whitish",
        "black": "ebony, jet black, pitch black",
        "gray": "silver, silvery, ash gray, ash grey, charcoal, slate gray, slate grey, grayish, greyish",
    },
    "direction": {
        "left": "leftward, leftwards, to left, toward the left, towards left",
        "right": "rightward, rightwards, to right, toward the right, towards right",
    },
    "place": {
        "forest": "woods, the woods, woodland, woodlands, jungle, rainforest, pine woods, trees, forests",
        "meadow": "field, fields, grass, grassland, prairie, savanna, savannah, pasture, wildflowers, flower field, "
        "grassy field, meadows, steppe",
        "beach": "shore, seashore, coast, seaside, sand beach, beaches, sea, ocean",
        "desert": "dunes, sand dunes, sahara, cacti, wasteland, deserts",
        "mountains": "mountain, hills, hill, cliff, peaks, alps, canyon, mountainside, mountain range, valley",
        "city": "street, streets, downtown, skyscrapers, town square, avenue, metropolis, urban street, road, "
        "highway, cities, alley",
        "village": "villages, town, countryside, farm, hamlet, farmyard, barn",
        "lake": "river, pond, stream, swimming pool, pool, lagoon, lakes, lakeside, water surface",
        "park": "garden, gardens, playground, public park, parks, backyard",
        "snowfield": "in the snow, ice, glacier, tundra, arctic, antarctica, the arctic, "
        "ice floe, field of ice, snow covered field",
        "moon": "lunar surface, outer space, space, moon surface, crater",
        "room": "rooms, house, home, indoors, kitchen, bedroom, office, apartment, bathroom, hall, inside a house",
        "underwater": "under the sea, under the water, beneath the water, coral reef, reef, aquarium, deep sea, seabed",
    },
    "time": {
        "day": "noon, midday, afternoon, daytime, daylight, daytime light, at noon, sunlit",
        "dawn": "sunrise, morning, daybreak, early morning, in the morning, first light, morning light",
        "dusk": "sunset, evening, twilight, golden hour, sundown, in the evening, nightfall, evening light",
        "night": "midnight, nighttime, night time, moonlight, moonlit, starry, starry night, under the moon, "
        "under the stars, full moon, starlight, at midnight, night sky, starry sky, in the dark",
    },
    "weather": {
        "clear": "sunny, sunshine, blue sky, blue skies, cloudless, cloudless sky, bright sun, clear skies, "
        "fine weather",
        "cloudy": "overcast, clouds, cloud, gray clouds, grey clouds, gray sky, grey sky, dark clouds, under clouds",
        "rain": "raining, rainstorm, drizzle, drizzling, downpour, storm, stormy, thunderstorm, rainfall, shower, "
        "it rains, rains, rainy day",
        "snow": "snowing, snowfall, falling snow, blizzard, snowstorm, snowflakes, flurries, it snows, snows, "
        "snowy day",
        "fog": "mist, misty, haze, hazy, thick fog, it is foggy",
    },
    "shot_type": {
        "extreme_close_up": "macro, macro shot, extreme close ups, very close shot",
        "close_up": "close ups, portrait, portrait shot, tight shot, face shot, headshot, head shot, detail shot",
        "medium_shot": "medium, medium view, waist up, waist shot, medium close up, medium close up shot, half body",
        "full_shot": "full view, full body, whole body, full length shot, head to toe, full body view",
        "long_shot": "establishing shot, wide angle shot, wide angle, panorama, panoramic shot, wide view, "
        "distant shot, from far away, from a distance, very wide shot, extreme wide shot, extreme long shot, "
        "in the distance",
    },
    "shot_angle": {
        "eye_level": "eye level view, eye level angle, at eye height, straight on shot",
        "high_angle": "overhead, overhead shot, top view, top down, top down view, birds eye view, bird's eye view, "
        "aerial view, aerial shot, aerial, drone shot, drone view, looking down, high angle view",
        "low_angle": "worms eye view, worm's eye view, looking up, upward angle, low angle view, ground level shot",
    },
    "shot_position": {
        "front_view": "from the front, frontal view, frontal, head on, facing us, facing the viewer, front",
        "back_view": "rear view, from the back, from the rear, seen from the back, with its back to the camera",
        "side_view": "from the side, profile, profile view, side on, lateral view, in side view",
    },
    "camera_motion": {
        "static": "fixed camera, camera fixed, locked off shot, locked camera, tripod shot, steady shot, "
        "no camera motion, stationary camera, the camera is still, the camera is static",
        "pan": "pan, pans, panning, camera pan, camera pans, panning shot, the camera pans",
        "tilt_up": "tilting up, camera moves up, the camera moves up, crane up, pedestal up",
        "tilt_down": "tilting down, camera moves down, the camera moves down, crane down, pedestal down",
        "zoom_in": "zooms in, dolly in, push in, pushes in, the camera moves closer, the camera comes closer, "
        "the camera pushes in, the camera dollies in, the camera approaches, zoom",
        "zoom_out": "zooms out, dolly out, pull back, pulls back, pulls out, pull out, the camera pulls back, "
        "the camera moves back, the camera pulls away, the camera dollies out",
        "tracking": "tracking shot, tracking, the camera tracks, camera tracks, the camera follows, camera follows, "
        "follow shot, following shot, dolly shot, trucking shot, camera tracking",
        "tracking_left": "truck left, dolly left, the camera moves left, the camera moves to the left",
        "tracking_right": "truck right, dolly right, the camera moves right, the camera moves to the right",
    },
    "expression": {
        "neutral": "serious, expressionless, poker faced, composed",
        "happy": "joyful, laughing, laughs, smiles, glad, delighted, grinning, merry, cheerfully, happily, joyous",
        "sad": "crying, cries, tearful, melancholic, melancholy, weeping, upset, sorrowful, sadly, heartbroken",
        "angry": "mad, raging, annoyed, frowning, enraged, angrily, irritated, scowling",
        "surprised": "shocked, amazed, startled, stunned, astounded, wide eyed, surprise",
    },
}
VERBS: dict[str, str] = {
    "walks": "walk, stroll, wander, stride, march, amble, tiptoe, hike, step, roam, prowl, plod, crawl, creep, pace, "
    "saunter, stalk, waddle, move, go, travel, ramble",
    "runs": "run, dash, sprint, race, gallop, jog, rush, hurry, speed, bolt, charge, trot, scamper, hurtle",
    "jumps": "jump, leap, hop, skip, vault, pounce, prance, dance",
    "swims": "swim, paddle, dive, sail, row, float, drift, glide, snorkel, bathe, cruise",
    "flies": "fly, soar, flutter, glide, float, drift, flap, hover, cruise, ascend",
    "bounces": "bounce, bob, hop, dribble",
    "spins": "spin, twirl, rotate, whirl, pirouette, revolve, roll, swirl, dance, somersault",
    "stays": "stay, stand, sit, rest, sleep, wait, lie, pause, relax, remain, pose, nap, perch, crouch, hover, linger, "
    "meditate, gaze, stare",
}
# What a phrase says besides, if nothing else does: the colour of a polar bear.
BESIDES: dict[str, tuple[str, str]] = {
    "polar bear": ("color", "white"),
    "school bus": ("color", "yellow"),
    "golden retriever": ("color", "yellow"),
    "goldfish": ("color", "orange"),
    "panda": ("color", "white"),
    "sunny": ("time", "day"),
    "sunshine": ("time", "day"),
    "in the snow": ("weather", "snow"),
}
# Said of what flies, and of nothing else.
ALOFT = "in the sky, across the sky, through the air, in the air, through the sky, into the sky"
# Made of known words, and none of them is meant.
OTHERWISE = (
    "on the left, on the right, left side, right side, hot dog, sea lion, sea horse, black hole, white noise, "
    "red carpet, ice cream, snow globe, snow leopard, polar lights, green tea, bear in mind, in front of, sea of, "
    "field of view, steady cam, home run, full of, running water, orange juice, traffic light, camera moves, "
    "the camera moves, camera moving, moving camera, camera movement, camera motion"
)
_FILLERS = (
    "a an the of in on at by with and is are was be being it its it's his her their this that these there some while "
    "as to from into through over along across past towards toward near inside under above behind beside between "
    "around up down out off for who which where when then s shot view scene video film clip image picture footage "
    "movie showing shows show me my please make create generate want i we see seen wearing dressed clothes wears "
    "looks looking like one very has have having he she they them"
)
FILLERS = frozenset(_FILLERS.split())
_PREPOSITIONS = "in on at by near inside under above behind beside between through over along across"
PREPOSITIONS = frozenset(_PREPOSITIONS.split())
# Words which say something of a field that they have no value of.
_OF_CAMERA = "camera handheld orbit orbits orbiting crane dolly steadicam shaky pov gimbal lens focus rack arc fpv"
_OF_LIGHT = "light lights lighting lit neon backlit candlelight candle spotlight lamp glow glowing"
HINTS = {"camera_motion": frozenset(_OF_CAMERA.split()), "time": frozenset(_OF_LIGHT.split())}
_SHADES = ("dark", "light", "bright", "deep", "pale", "vivid")
_HOWS = ("slowly", "gently", "smoothly", "quickly", "steadily")
_IRREGULAR = {
    "run": "ran", "fly": "flew", "swim": "swam", "stand": "stood", "sit": "sat", "lie": "lay", "sleep": "slept",
    "leap": "leapt", "spin": "span", "creep": "crept", "go": "went", "stride": "strode", "speed": "sped",
}  # fmt: skip
_DOUBLED = ("run", "jog", "hop", "skip", "swim", "flap", "bob", "spin", "sit", "nap", "step", "plod")


def phrases() -> Iterator[tuple[str, str, str]]:
    """Field, value and phrase of all above, verbs in all their forms and colours in their shades."""
    for name, values in NOUNS.items():
        for value, text in values.items():
            for phrase in text.split(", "):
                yield name, value, phrase
    for color in NOUNS["color"]:
        for shade in _SHADES:
            yield "color", color, f"{shade} {color}"
            if color == "gray":
                yield "color", color, f"{shade} grey"
    for value, text in VERBS.items():
        for verb in text.split(", "):
            for form in forms(verb):
                yield "action", value, form
    for way in ("left", "right"):
        for move, verbs in (("pan", ("pan", "pans", "panning")), ("tracking", ("track", "tracks", "tracking"))):
            yield from _ways(f"{move}_{way}", verbs, (way, f"to the {way}", f"towards the {way}"))
    for move, verbs, ways in (
        ("tilt", ("tilt", "tilts", "tilting"), ("up", "down")),
        ("zoom", ("zoom", "zooms", "zooming"), ("in", "out")),
    ):
        for way in ways:
            yield from _ways(f"{move}_{way}", verbs, (way, f"{way}wards"))


def forms(verb: str) -> list[str]:
    """run, runs, running, ran."""
    root = verb + verb[-1] if verb in _DOUBLED else verb
    stem = {"lie": "ly"}.get(verb, root[:-1] if root.endswith("e") else root)
    if verb.endswith(("s", "sh", "ch", "x", "o")):
        third = f"{verb}es"
    elif verb.endswith("y") and verb[-2] not in "aeiou":
        third = f"{verb[:-1]}ies"
    else:
        third = f"{verb}s"
    past = f"{stem}ed" if not third.endswith("ies") else f"{third[:-3]}ied"
    return [verb, third, f"{stem}ing", *([_IRREGULAR[verb]] if verb in _IRREGULAR else [past])]


def _ways(value: str, verbs: tuple[str, ...], ways: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """A camera's move, slowly or not, before or after its direction."""
    for camera in ("", "camera ", "the camera "):
        for verb in verbs:
            for way in ways:
                yield "camera_motion", value, f"{camera}{verb} {way}"
                for how in _HOWS:
                    yield "camera_motion", value, f"{camera}{how} {verb} {way}"
                    yield "camera_motion", value, f"{camera}{verb} {how} {way}"
                    yield "camera_motion", value, f"{camera}{verb} {way} {how}"
