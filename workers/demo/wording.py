"""The words of the questions: templates, and the many ways in which people type them.

`phrase` fills a template and then varies case, marks and courtesies. Knows nothing of scenes.
"""

from collections.abc import Sequence
from random import Random

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight")
REGIONS = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)
PICTURES = ("picture", "picture", "image", "image", "pic", "photo", "drawing")
NOUNS = ("shapes", "shapes", "shapes", "objects", "things", "figures")
OPENINGS = ("please, ", "hi, ", "ok, ", "hey, ", "question: ", "now, ")
COUNT_ALL = (
    "How many {things} are there?",
    "How many {things} are in the {pic}?",
    "How many {things} are there in the {pic}?",
    "How many {things} are there in this {pic}?",
    "How many {things} can you see?",
    "How many {things} do you see?",
    "How many {things} does the {pic} show?",
    "Count the {things}.",
    "Count all the {things} in the {pic}.",
    "Count the {things} in this {pic}.",
    "What is the number of {things}?",
    "What's the total number of {things} in the {pic}?",
    "Tell me how many {things} there are.",
    "Give me the number of {things}.",
    "number of {things}",
    "how many",
    "how many {things}",
    "How many?",
    "Can you count the {things}?",
    "Can you tell me how many {things} there are?",
)
COUNT_SOME = (
    "How many {what} are there?",
    "How many {what} are in the {pic}?",
    "How many {what} are there in the {pic}?",
    "How many {what} are there in this {pic}?",
    "How many {what} can you see?",
    "How many {what} do you see?",
    "How many {what}?",
    "how many {what}",
    "Count the {what}.",
    "Count the {what} in the {pic}.",
    "What is the number of {what}?",
    "Tell me how many {what} there are.",
    "Give me the number of {what}.",
    "Can you count the {what}?",
    "Can you tell me how many {what} there are?",
)
IDENTIFY = (
    "What is in the {pic}?",
    "What is in this {pic}?",
    "What's in the {pic}?",
    "What's in this {pic}?",
    "What do you see?",
    "What do you see in the {pic}?",
    "What can you see?",
    "What can you see in this {pic}?",
    "What is this?",
    "What is that?",
    "What does the {pic} show?",
    "What is shown in the {pic}?",
    "What is shown here?",
    "What is on the {pic}?",
    "Describe the {pic}.",
    "Describe this {pic}.",
    "Describe what you see.",
    "Can you describe the {pic}?",
    "List the {things}.",
    "List all the {things} in the {pic}.",
    "Name the {things}.",
    "Which {things} are in the {pic}?",
    "Which {things} do you see?",
    "What {things} are there?",
    "Tell me what is in the {pic}.",
    "Tell me what you see.",
    "what is it",
)
COLOUR_OF = (
    "What {colour} is the {kind}?",
    "What {colour} is the {kind} in the {pic}?",
    "What is the {colour} of the {kind}?",
    "What's the {colour} of the {kind}?",
    "Which {colour} is the {kind}?",
    "Which {colour} does the {kind} have?",
    "Tell me the {colour} of the {kind}.",
    "Name the {colour} of the {kind}.",
    "{colour} of the {kind}",
    "The {kind} is what {colour}?",
    "Can you tell me the {colour} of the {kind}?",
)
SHAPE_OF = (
    "What shape is the {hue} one?",
    "What shape is the {hue} object?",
    "What shape is {hue}?",
    "Which shape is {hue}?",
    "What is the {hue} shape?",
    "What is the shape of the {hue} object?",
    "What is {hue}?",
    "What kind of shape is the {hue} one?",
    "What {hue} shape is there?",
    "Which shape is the {hue} one?",
    "Tell me the shape of the {hue} one.",
)
EXISTS = (
    "Is there {what}?",
    "Is there {what} in the {pic}?",
    "Is there {what} in this {pic}?",
    "Do you see {what}?",
    "Can you see {what}?",
    "Does the {pic} contain {what}?",
    "Does the {pic} show {what}?",
    "Does the {pic} have {what}?",
    "Tell me whether there is {what}.",
    "is {what} there",
)
POSITION = (
    "Where is {the}?",
    "Where is {the} in the {pic}?",
    "Where's {the}?",
    "Where in the {pic} is {the}?",
    "In which part of the {pic} is {the}?",
    "Which part of the {pic} is {the} in?",
    "Where do you see {the}?",
    "Tell me where {the} is.",
    "What is the position of {the}?",
    "position of {the}",
)
BOX = (
    "Where is {the}? Give its box.",
    "Where is {the}? Give me its bounding box.",
    "Where is {the}? Answer with a box.",
    "Locate {the}.",
    "Locate {the} in the {pic}.",
    "Please locate {the}.",
    "Detect {the}.",
    "Detect {the} in the {pic}.",
    "Find {the}.",
    "Find {the} in the {pic}.",
    "Give the box of {the}.",
    "Give me the bounding box of {the}.",
    "What is the bounding box of {the}?",
    "Show me the box around {the}.",
    "Draw a box around {the}.",
    "Please provide the bounding box coordinates of {the}.",
    "bounding box of {the}",
    "box of {the}",
    "Ground {the}.",
)
SIDES = {
    "left": ("left of", "to the left of", "on the left of"),
    "right": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
RELATION_WHAT = ("What is {side} {the}?", "What's {side} {the}?", "Which shape is {side} {the}?")
RELATION_YES = (
    "Is {a} {side} {b}?",
    "Is {a} {side} {b} in the {pic}?",
    "Does {a} lie {side} {b}?",
    "Tell me whether {a} is {side} {b}.",
)
SIZE: dict[bool, tuple[str, ...]] = {
    True: ("What is the {w} shape?", "Which shape is the {w}?", "What is the {w} object?"),
    False: ("What {colour} is the {w} shape?", "Which {colour} is the {w} shape?"),
}
FOLLOW_COUNT = (
    "And how many {what}?",
    "And how many are {what}?",
    "And {what}?",
    "What about {what}?",
    "How about {what}?",
    "and the {what}?",
)
ORDINALS = (("first", "1st"), ("second", "2nd"))
NAMED = ("the {n} {pic}", "the {n} {pic}", "the {n} one", "{pic} {i}")
MORE = (
    "Which {pic} has more {things}?",
    "Which {pic} shows more {things}?",
    "Which of the two {pic}s has more {things}?",
    "Which one has more {things}?",
    "In which {pic} are there more {things}?",
)
LAYERS = (
    ("count", ("How many {things} are in {it}?", "How many {things} are there in {it}?")),
    ("count", ("Count the {things} in {it}.", "How many {things} does {it} show?")),
    ("what", ("What is in {it}?", "What do you see in {it}?", "Describe {it}.")),
    ("what", ("What does {it} show?", "What's in {it}?", "And what is in {it}?")),
)


def article(name: str) -> str:
    """Put "a" or "an" before a name."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(name: str) -> str:
    """Return the plural of a shape's name."""
    return name + ("es" if name.endswith("s") else "s")


def join(parts: Sequence[str]) -> str:
    """Join words as "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def phrase(rng: Random, templates: Sequence[str], **words: str) -> str:
    """Fill one of the templates and type it as people do: case, marks, courtesies."""
    words.setdefault("pic", rng.choice(PICTURES))
    words.setdefault("things", rng.choice(NOUNS))
    words.setdefault("colour", rng.choice(("colour", "color")))
    text = rng.choice(templates).format(**words)
    if rng.random() < 0.12:
        text = rng.choice(OPENINGS) + text[0].lower() + text[1:]
        text = text[0].upper() + text[1:]
    if text[-1] not in ".?!":
        text += "?" if rng.random() < 0.8 else ""
    elif rng.random() < 0.2:
        text = text[:-1]
    roll = rng.random()
    if roll < 0.06:
        text = text.rstrip("?.") + rng.choice((" please", ", please", " please?", ", please."))
    if rng.random() < 0.22:
        text = text.lower()
    elif rng.random() < 0.02:
        text = text.upper()
    return text
