"""Questions about scenes and their exact answers, in the many ways in which people type them.

Each `ask_*` function asks one kind of question about a scene, or returns None where the answer
would be ambiguous (a shape on the border of two regions, two shapes of the same name, ...).
`about_scene` and `follow_up` choose among them. Knows scenes, not tokens or models.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from workers.demo import wording
from workers.demo.scenes import COLOURS, KINDS, Scene, Shape
from workers.demo.wording import NUMBERS, article, join, phrase, plural


@dataclass(frozen=True, slots=True)
class Turn:
    """One question with its exact answer; `subject` is what a follow-up's "it" would mean."""

    kind: str
    question: str
    answer: str
    subject: Shape | None = None
    box: tuple[int, int, int, int] | None = None


def per_mille(scene: Scene, shape: Shape) -> tuple[int, int, int, int]:
    """Return the shape's box as integers from 0 to 1000 of the whole picture."""
    left, top, right, bottom = shape.box()
    width, height = scene.width / 1000, scene.height / 1000
    edges = (left / width, top / height, right / width, bottom / height)
    x1, y1, x2, y2 = (max(0, min(1000, round(edge))) for edge in edges)
    return x1, y1, x2, y2


def box_answer(name: str, box: tuple[int, int, int, int]) -> str:
    """Write a box as InternVL does."""
    return f"<ref>{name}</ref><box>[[{box[0]}, {box[1]}, {box[2]}, {box[3]}]]</box>"


def describe(scene: Scene) -> str | None:
    """List the shapes from left to right, equal ones together; None where the order is a toss."""
    if not scene.shapes:
        return "nothing"
    spots = sorted((s.x / scene.width, s.y / scene.height, s.name) for s in scene.shapes)
    first: dict[str, tuple[float, float]] = {}
    for x, y, name in spots:
        first.setdefault(name, (x, y))
    places = sorted(first.values())
    if any(0.008 < b[0] - a[0] < 0.035 for a, b in pairwise(places)):
        return None
    ordered = sorted(first, key=lambda name: (round(first[name][0] / 0.016), first[name][1]))
    counts = Counter(shape.name for shape in scene.shapes)
    return join(
        [article(n) if counts[n] == 1 else f"{NUMBERS[counts[n]]} {plural(n)}" for n in ordered]
    )


def region(scene: Scene, shape: Shape) -> str | None:
    """Name the ninth of the picture that holds the centre; None near a border."""
    u, v = shape.x / scene.width, shape.y / scene.height
    if any(abs(w - edge) < 0.045 for w in (u, v) for edge in (1 / 3, 2 / 3)):
        return None
    return wording.REGIONS[int(v * 3)][int(u * 3)]


def unique(scene: Scene) -> list[Shape]:
    """Return the shapes whose name no other shape shares."""
    counts = Counter(shape.name for shape in scene.shapes)
    return [shape for shape in scene.shapes if counts[shape.name] == 1]


def refer(rng: Random, scene: Scene, shape: Shape) -> str:
    """Name one shape: in full, or by its kind or colour alone where that is enough."""
    roll = rng.random()
    if roll < 0.2 and sum(s.kind == shape.kind for s in scene.shapes) == 1:
        return f"the {shape.kind}"
    if roll > 0.85 and sum(s.colour == shape.colour for s in scene.shapes) == 1:
        return f"the {shape.colour} {rng.choice(('one', 'shape', 'object'))}"
    return f"the {shape.name}"


def _side(scene: Scene, shape: Shape, other: Shape, relation: str) -> bool | None:
    """Say whether `other` lies on that side of `shape`; None where it is too close to call."""
    dx, dy = (other.x - shape.x) / scene.width, (other.y - shape.y) / scene.height
    gap = {"left": -dx, "right": dx, "above": -dy, "below": dy}[relation]
    return None if abs(gap) < 0.07 else gap > 0


def ask_count_all(rng: Random, scene: Scene) -> Turn | None:
    """Ask for the number of shapes."""
    count = NUMBERS[len(scene.shapes)]
    only = scene.shapes[0] if len(scene.shapes) == 1 else None
    return Turn("count all", phrase(rng, wording.COUNT_ALL), count, only)


def some(rng: Random, scene: Scene) -> tuple[str, int, Shape | None]:
    """Pick a class of shapes, in words, with its size and its only member."""
    colour, kind = rng.choice(COLOURS), rng.choice(KINDS)
    if scene.shapes and rng.random() < 0.8:
        near, far = rng.choice(scene.shapes), rng.choice(scene.shapes)
        colour, kind = near.colour, (near if rng.random() < 0.75 else far).kind
    roll = rng.random()
    if roll < 0.33:
        members = [s for s in scene.shapes if s.colour == colour]
        what = f"{colour} {rng.choice(('shapes', 'shapes', 'ones', 'objects', 'things'))}"
    elif roll < 0.66:
        members = [s for s in scene.shapes if s.kind == kind]
        what = plural(kind)
    else:
        members = [s for s in scene.shapes if (s.colour, s.kind) == (colour, kind)]
        what = plural(f"{colour} {kind}")
    return what, len(members), members[0] if len(members) == 1 else None


def ask_count_some(rng: Random, scene: Scene) -> Turn | None:
    """Ask for the number of shapes of a colour, a kind or both."""
    what, count, only = some(rng, scene)
    return Turn("count some", phrase(rng, wording.COUNT_SOME, what=what), NUMBERS[count], only)


def ask_identify(rng: Random, scene: Scene) -> Turn | None:
    """Ask for everything in the picture."""
    answer = describe(scene)
    only = scene.shapes[0] if len(scene.shapes) == 1 else None
    kind = "identify one" if only else "identify many"
    return Turn(kind, phrase(rng, wording.IDENTIFY), answer, only) if answer else None


def ask_colour(rng: Random, scene: Scene) -> Turn | None:
    """Ask for the colour of the only shape of its kind, or now and then of an absent one."""
    counts = Counter(shape.kind for shape in scene.shapes)
    if rng.random() < 0.06:
        kind = rng.choice(KINDS)
        if counts[kind] == 0:
            return Turn("absent", phrase(rng, wording.COLOUR_OF, kind=kind), f"There is no {kind}.")
    choices = [shape for shape in scene.shapes if counts[shape.kind] == 1]
    if not choices:
        return None
    shape = rng.choice(choices)
    word = shape.kind if len(scene.shapes) > 1 or rng.random() < 0.8 else "shape"
    return Turn("colour", phrase(rng, wording.COLOUR_OF, kind=word), shape.colour, shape)


def ask_shape(rng: Random, scene: Scene) -> Turn | None:
    """Ask for the kind of the only shape of its colour."""
    counts = Counter(shape.colour for shape in scene.shapes)
    choices = [shape for shape in scene.shapes if counts[shape.colour] == 1]
    if not choices:
        return None
    shape = rng.choice(choices)
    return Turn(
        "shape", phrase(rng, wording.SHAPE_OF, hue=shape.colour), article(shape.kind), shape
    )


def ask_exists(rng: Random, scene: Scene) -> Turn | None:
    """Ask whether there is a shape of a colour, a kind or both."""
    what, count, only = some(rng, scene)
    colour, _, noun = what.rpartition(" ")
    noun = next((kind for kind in KINDS if plural(kind) == noun), "shape")
    words = article(f"{colour} {noun}".strip())
    return Turn("exists", phrase(rng, wording.EXISTS, what=words), "yes" if count else "no", only)


def ask_position(rng: Random, scene: Scene) -> Turn | None:
    """Ask where a shape is, in words."""
    choices = [(s, place) for s in unique(scene) if (place := region(scene, s))]
    if not choices:
        return None
    shape, place = rng.choice(choices)
    return Turn(
        "position", phrase(rng, wording.POSITION, the=refer(rng, scene, shape)), place, shape
    )


def ask_box(rng: Random, scene: Scene) -> Turn | None:
    """Ask for a shape's box."""
    if rng.random() < 0.04:
        name = f"{rng.choice(COLOURS)} {rng.choice(KINDS)}"
        if all(name != shape.name for shape in scene.shapes):
            return Turn(
                "absent", phrase(rng, wording.BOX, the=f"the {name}"), f"There is no {name}."
            )
    choices = unique(scene)
    if not choices:
        return None
    shape = rng.choice(choices)
    box = per_mille(scene, shape)
    text = phrase(rng, wording.BOX, the=refer(rng, scene, shape))
    return Turn("box", text, box_answer(shape.name, box), shape, box)


def ask_relation_what(rng: Random, scene: Scene) -> Turn | None:
    """Ask what lies on one side of a shape; at most two shapes do."""
    choices = unique(scene)
    if not choices or len(scene.shapes) < 2:
        return None
    shape, relation = rng.choice(choices), rng.choice(list(wording.SIDES))
    others = [s for s in scene.shapes if s is not shape]
    sides = [_side(scene, shape, other, relation) for other in others]
    there = tuple(o for o, side in zip(others, sides, strict=True) if side)
    if None in sides or len(there) > 2:
        return None
    answer = describe(Scene(scene.width, scene.height, there))
    side = rng.choice(wording.SIDES[relation])
    text = phrase(rng, wording.RELATION_WHAT, side=side, the=refer(rng, scene, shape))
    only = there[0] if len(there) == 1 else None
    return Turn("relation what", text, answer, only) if answer else None


def ask_relation_yes(rng: Random, scene: Scene) -> Turn | None:
    """Ask whether one shape lies on one side of another."""
    choices = unique(scene)
    if len(choices) < 2:
        return None
    shape, other = rng.sample(choices, 2)
    relation = rng.choice(list(wording.SIDES))
    answer = _side(scene, other, shape, relation)
    if answer is None:
        return None
    a, b = refer(rng, scene, shape), refer(rng, scene, other)
    text = phrase(rng, wording.RELATION_YES, a=a, b=b, side=rng.choice(wording.SIDES[relation]))
    return Turn("relation yes/no", text, "yes" if answer else "no", shape)


def ask_size(rng: Random, scene: Scene) -> Turn | None:
    """Ask for the clearly largest or smallest shape."""
    ranked = sorted(scene.shapes, key=lambda shape: shape.radius)
    if len(ranked) < 2:
        return None
    largest = rng.random() < 0.5
    first, second = (ranked[-1], ranked[-2]) if largest else (ranked[1], ranked[0])
    if first.radius < 1.35 * second.radius:
        return None
    shape = first if largest else second
    word = rng.choice(("largest", "biggest") if largest else ("smallest", "tiniest"))
    name = rng.random() < 0.7
    answer = article(shape.name) if name else shape.colour
    return Turn("size", phrase(rng, wording.SIZE[name], w=word), answer, shape)


Asker = Callable[[Random, Scene], Turn | None]
ASKERS: tuple[tuple[Asker, float], ...] = (
    (ask_count_all, 1.2),
    (ask_count_some, 1.6),
    (ask_identify, 1.8),
    (ask_colour, 1.0),
    (ask_shape, 1.0),
    (ask_exists, 1.2),
    (ask_position, 1.5),
    (ask_box, 1.8),
    (ask_relation_what, 0.9),
    (ask_relation_yes, 0.9),
    (ask_size, 0.6),
)


def about_scene(rng: Random, scene: Scene, emphasis: Mapping[Asker, float] | None = None) -> Turn:
    """Ask any kind of question about one scene; some may be asked more often than usual."""
    askers = [asker for asker, _ in ASKERS]
    weights = [(emphasis or {}).get(asker, weight) for asker, weight in ASKERS]
    while True:
        turn: Turn | None = rng.choices(askers, weights)[0](rng, scene)
        if turn is not None:
            return turn


def follow_up(rng: Random, scene: Scene, before: Turn) -> Turn | None:
    """Ask something that only the turn before makes clear."""
    if before.kind in ("count some", "exists", "follow-up count") and rng.random() < 0.6:
        what, count, only = some(rng, scene)
        text = phrase(rng, wording.FOLLOW_COUNT, what=what)
        if before.kind == "exists":
            text = phrase(rng, ("And how many {what}?", "How many {what}, then?"), what=what)
        return Turn("follow-up count", text, NUMBERS[count], only)
    if before.subject is None:
        return None
    return _about_it(rng, scene, before.subject)


def _about_it(rng: Random, scene: Scene, shape: Shape) -> Turn | None:
    choice = rng.choice(("colour", "shape", "position", "box"))
    texts: tuple[str, ...]
    if choice == "colour":
        texts = ("What {colour} is it?", "Which {colour} is it?", "And its {colour}?")
        return Turn("follow-up it", phrase(rng, texts), shape.colour, shape)
    if choice == "shape":
        texts = ("What shape is it?", "Which shape is it?", "And what shape is it?")
        return Turn("follow-up it", phrase(rng, texts), article(shape.kind), shape)
    if choice == "position":
        place = region(scene, shape)
        texts = ("Where is it?", "And where is it?", "Where is it in the {pic}?")
        return Turn("follow-up it", phrase(rng, texts), place, shape) if place else None
    box = per_mille(scene, shape)
    texts = ("Give its box.", "And its box?", "Where is it? Give its box.", "Locate it.")
    answer = box_answer(shape.name, box)
    return Turn("follow-up box", phrase(rng, texts), answer, shape, box)
