"""Questions about two pictures in one chat: either of them by its place, or both compared."""

from random import Random

from workers.demo import wording
from workers.demo.questions import Turn, about_scene, describe, some
from workers.demo.scenes import Scene
from workers.demo.wording import NUMBERS, phrase


def about_two(rng: Random, first: Scene, second: Scene) -> Turn:
    """Ask about one of two pictures by its place in the chat, or compare them."""
    if rng.random() < 0.25:
        return _compare(rng, first, second)
    index = rng.randrange(2)
    scene = (first, second)[index]
    it = rng.choice(wording.NAMED).format(
        n=rng.choice(wording.ORDINALS[index]), i=index + 1, pic=rng.choice(wording.PICTURES[:6])
    )
    if rng.random() < 0.2:
        what, count, only = some(rng, scene)
        text = phrase(rng, ("How many {what} are in {it}?",), what=what, it=it)
        return Turn("two images", text, NUMBERS[count], only)
    task, texts = rng.choice(wording.LAYERS)
    answer = describe(scene) if task == "what" else NUMBERS[len(scene.shapes)]
    only = scene.shapes[0] if len(scene.shapes) == 1 else None
    if answer is None:
        return about_two(rng, first, second)
    return Turn("two images", phrase(rng, texts, it=it), answer, only)


def _compare(rng: Random, first: Scene, second: Scene) -> Turn:
    a, b = len(first.shapes), len(second.shapes)
    if rng.random() < 0.7:
        answer = "the first" if a > b else "the second" if b > a else "both have the same number"
        return Turn("compare images", phrase(rng, wording.MORE), answer)
    texts = (
        "Do both {pic}s have the same number of {things}?",
        "Is the number of {things} the same in both {pic}s?",
    )
    return Turn("compare images", phrase(rng, texts), "yes" if a == b else "no")


def about_newest(rng: Random, scene: Scene) -> Turn:
    """Ask about the picture that has just been sent, in words that name no place."""
    turn = about_scene(rng, scene)
    return Turn("second image", turn.question, turn.answer, turn.subject, turn.box)
