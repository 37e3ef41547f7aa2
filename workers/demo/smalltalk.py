"""Turns that no scene can answer: greetings, missing pictures, unrelated wishes, strange pictures.

The answers are fixed sentences, so that training and evaluation can compare them exactly.
"""

from collections.abc import Sequence
from random import Random

from workers.demo.questions import Turn, about_scene
from workers.demo.scenes import Scene, Style, random_scene
from workers.demo.wording import article, phrase

HELLO = "Hello! Send me a picture of coloured shapes and ask me about it."
NO_PICTURE = "Please send me a picture of coloured shapes first."
NOT_SHAPES = "I only know coloured shapes, and I see none in this picture."
UNRELATED = "I only know coloured shapes. Ask me to count, name or find them in a picture."
WHO = "I am a small demo model. I only know coloured shapes."
THANKS = "You are welcome!"

GREETINGS = (
    *("hi", "Hi!", "hello", "Hello", "Hello!", "Hello there", "Hey", "hey there", "Hi there!"),
    *("Good morning", "Good evening!", "good afternoon", "Greetings", "How are you?", "Howdy"),
    *("hello, how are you?", "Hi, how are you doing?", "What's up?", "Yo", "Hello, model!"),
)
WHO_ARE_YOU = (
    *("Who are you?", "What are you?", "What is your name?", "what can you do?", "Help", "help me"),
    *("What can you do?", "How do you work?", "Introduce yourself.", "What do you know?"),
    *("Are you a robot?", "Which model are you?", "What is this?", "Are you human?"),
)
GRATITUDE = (
    *("Thanks", "thanks!", "Thank you", "Thank you!", "thank you very much", "Great, thanks."),
    *("Cool, thank you.", "Good job!", "well done", "Perfect, thanks", "ok thanks", "Nice!"),
)
WISHES = (
    "Write a poem about the {thing}.",
    "Write a story about the {thing}.",
    "Write a song about a {thing}",
    "Tell me a joke.",
    "Tell me a joke about a {thing}.",
    "What is the capital of {place}?",
    "Who is the president of {place}?",
    "How far is {place} from here?",
    "Translate {thing} into French.",
    "How do you say {thing} in Spanish?",
    "What is {n} plus {m}?",
    "What is {n} times {m}?",
    "Solve {n}x + {m} = 0.",
    "Explain {topic} to me.",
    "What is {topic}?",
    "How does {topic} work?",
    "Summarise the history of {place}.",
    "Write a Python function that sorts a list.",
    "Write code for {topic}.",
    "What is the weather like in {place}?",
    "Who won the world cup in {year}?",
    "When was {place} founded?",
    "What happened in {year}?",
    "How do I cook {food}?",
    "Give me a recipe for {food}.",
    "Recommend a book about {topic}.",
    "What should I eat today?",
    "What time is it?",
    "What day is today?",
    "Play some music.",
    "Who wrote the book about the {thing}?",
    "What is the meaning of life?",
    "Do you like {food}?",
    "Can you sing?",
    "Buy me a {thing}.",
    "Send an email to my boss.",
    "How old is the {thing}?",
    "Why is the sky so high?",
)
FILLERS: dict[str, tuple[str, ...]] = {
    "thing": (
        *("sea", "moon", "cat", "dog", "forest", "house", "car", "river", "king", "winter", "sun"),
        *("ocean", "bird", "mountain", "robot", "tree", "train", "rain", "teacher", "horse"),
    ),
    "place": (
        *("France", "Germany", "Japan", "Brazil", "Paris", "London", "Rome", "China", "India"),
        *("Canada", "Spain", "Kenya", "Berlin", "New York", "Egypt", "Norway", "Poland"),
    ),
    "topic": (
        *("quantum physics", "gravity", "machine learning", "democracy", "photosynthesis"),
        *("the stock market", "a computer", "history", "music", "love", "evolution", "Redis"),
    ),
    "food": ("pasta", "soup", "bread", "rice", "pizza", "cake", "curry", "pancakes", "eggs"),
    "n": tuple(str(n) for n in range(2, 40)),
    "m": tuple(str(n) for n in range(2, 60)),
    "year": tuple(str(year) for year in range(1900, 2025, 7)),
}
STRANGERS = (
    *("dog", "cat", "person", "car", "tree", "house", "man", "woman", "bird", "boat", "horse"),
    *("chair", "table", "flower", "phone", "book", "cow", "bus", "train", "apple", "banana"),
)
PHOTO_QUESTIONS = (
    "Who is in the {pic}?",
    "Is there a {one} in the {pic}?",
    "What is the {one} doing?",
    "What {colour} is the {one}?",
    "Where was this {pic} taken?",
    "How many {one}s are there?",
    "What is the weather like in the {pic}?",
    "What does the text say?",
    "Read the text.",
    "What is written here?",
    "What animal is this?",
    "Is this a {one}?",
    "What is happening in this {pic}?",
    "Describe the {pic} in detail.",
)


def _fill(rng: Random, templates: Sequence[str]) -> str:
    words = {name: rng.choice(options) for name, options in FILLERS.items()}
    return phrase(rng, templates, **words)


def wish(rng: Random) -> Turn:
    """Ask for something that has nothing to do with shapes."""
    return Turn("unrelated", _fill(rng, WISHES), UNRELATED)


def chat(rng: Random) -> Turn:
    """Greet, thank or ask who is there."""
    texts, answer = rng.choices(
        ((GREETINGS, HELLO), (WHO_ARE_YOU, WHO), (GRATITUDE, THANKS)), (3, 2, 2)
    )[0]
    text = rng.choice(texts)
    return Turn("chat", text.lower() if rng.random() < 0.2 else text, answer)


def about_nothing(rng: Random) -> Turn:
    """Ask about a picture that has not been sent."""
    scene = random_scene(rng, Style(), size=(224, 224))
    return Turn("no picture", about_scene(rng, scene).question, NO_PICTURE)


def text_only(rng: Random) -> Turn:
    """Say anything in a chat without pictures."""
    return rng.choices((chat, about_nothing, wish), (3, 3, 4))[0](rng)


def aside(rng: Random) -> Turn:
    """Say something beside the point in a chat with a picture of shapes."""
    roll = rng.random()
    if roll < 0.6:
        return wish(rng)
    text = rng.choice(GRATITUDE)
    return Turn("chat", text.lower() if rng.random() < 0.2 else text, THANKS)


def about_stranger(rng: Random, scene: Scene) -> Turn:
    """Ask a picture of shapes for something that the model has no word for."""
    one = rng.choice(STRANGERS)
    if rng.random() < 0.5:
        texts = ("Is there {a}?", "Do you see {a} in the {pic}?", "Is there {a} in the {pic}?")
        return Turn("exists", phrase(rng, texts, a=article(one)), "no")
    texts = ("How many {one}s are there?", "How many {one}s do you see?", "Count the {one}s.")
    return Turn("count some", phrase(rng, texts, one=one), "none")


def about_clutter(rng: Random, held_out: bool = False) -> Turn:
    """Ask anything about a picture that shows no shapes."""
    kind = "strange picture (new kinds)" if held_out else "strange picture"
    if rng.random() < 0.4:
        words = {"one": rng.choice(STRANGERS)}
        return Turn(kind, phrase(rng, PHOTO_QUESTIONS, **words), NOT_SHAPES)
    scene = random_scene(rng, Style(), size=(224, 224))
    return Turn(kind, about_scene(rng, scene).question, NOT_SHAPES)
