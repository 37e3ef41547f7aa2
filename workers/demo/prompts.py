r"""The token layout of a chat: special tokens, chat template, tokenizer and training sequences.

Layout, piece by piece, each encoded on its own so that training and serving agree:
`<|im_start|>user\n`; per picture `<img>`, 16 x tiles `<IMG_CONTEXT>`, `</img>`, `\n`; the text;
`<|im_end|>\n<|im_start|>assistant\n`; the answer and `<|im_end|>`. A later turn starts with `\n`.
A line feed is always a token of its own, so a whole string and its pieces give the same tokens.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from workers.demo.questions import Turn
from workers.demo.scenes import Box, Scene
from workers.demo.spots import spots

TOKENS_PER_TILE = 16
IGNORE = -100
END, START, IMAGE = "<|im_end|>", "<|im_start|>", "<IMG_CONTEXT>"
SPECIAL_TOKENS = ("<|endoftext|>", START, END, "<img>", "</img>", IMAGE, "<video>")
VOCABULARY = 1024
WORDS = r"<ref>|</ref><box>\[\[|\]\]</box>|, (?=\d)|\d|\n| ?\p{L}+| ?[^\s\p{L}\d]+|[^\S\n]"
BOX_WEIGHT = 0.8
BRANCH_TOKENS = 170

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>\\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


TOKENIZER_SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "processor_class": "InternVLProcessor",
    "eos_token": END,
    "pad_token": "<|endoftext|>",
    "extra_special_tokens": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": IMAGE,
        "video_token": "<video>",
    },
    "model_max_length": 2048,
    "padding_side": "left",
    "clean_up_tokenization_spaces": False,
}


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn a byte-level BPE of `VOCABULARY` entries; every UTF-8 text survives the round trip."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe


class Encoder:
    """Turn pieces of a chat into token ids; remembers pieces, most of which come again."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces = lru_cache(maxsize=200_000)(self._encode)
        ids: dict[str, int] = {t: int(tokenizer.token_to_id(t) or 0) for t in SPECIAL_TOKENS}
        line = self.text("\n")
        self.end = ids[END]
        self.image = (ids["<img>"], ids["</img>"], ids[IMAGE])
        self.line = line
        self.user = (ids[START], *self.text("user"), *line)
        self.system = (ids[START], *self.text("system"), *line)
        self.close = (ids[END], *line)
        self.reply = (ids[END], *line, ids[START], *self.text("assistant"), *line)

    @classmethod
    def load(cls, folder: Path) -> "Encoder":
        """Read the tokenizer of a checkpoint folder."""
        return cls(Tokenizer.from_file(str(folder / "tokenizer.json")))

    def text(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a piece of text."""
        return self._pieces(text)[0]

    def ends(self, text: str) -> tuple[int, ...]:
        """Return where each token of a text ends, in characters."""
        return self._pieces(text)[1]

    def _encode(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        pieces = self._tokenizer.encode(text, add_special_tokens=False)
        return tuple(pieces.ids), tuple(end for _, end in pieces.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def picture(self, tiles: int) -> tuple[int, ...]:
        """Return the block for one picture of that many tiles, with its line feed."""
        start, end, context = self.image
        return (start, *[context] * (TOKENS_PER_TILE * tiles), end, *self.line)


@dataclass(slots=True)
class Packed:
    """A prefix shared by branches; each branch sees the prefix and itself only.

    `mentions` and `items` are places (`spots`) by the index of the token that has to hold them: the
    last one of a mention, and the one right before an item of the answer.
    """

    ids: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    mentions: list[tuple[int, Box]] = field(default_factory=list)
    items: list[tuple[int, Box]] = field(default_factory=list)


class Packer:
    """Write one packed training sequence: a prefix, then branches that start where it ends."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._branch = 0
        self._position = 0
        self._prefix_end = 0
        self.out = Packed()

    def add(self, ids: Sequence[int], weight: float = 0.0) -> None:
        """Append tokens; a weight above zero has them predicted."""
        out = self.out
        for token in ids:
            same = out.branches and out.branches[-1] == self._branch
            if weight and same:
                out.targets[-1], out.weights[-1] = token, weight
            out.ids.append(token)
            out.targets.append(IGNORE)
            out.weights.append(0.0)
            out.positions.append(self._position)
            out.branches.append(self._branch)
            self._position += 1

    def turn(self, turn: Turn, scene: Scene | None = None, after: Sequence[int] = ()) -> None:
        """Append question, answer and end of turn; the user's opening is already there.

        `after` follows the question; with a scene, its places are noted at the words for them.
        """
        encoder, out = self._encoder, self.out
        asked_at = len(out.ids)
        self.add((*encoder.text(turn.question), *after, *encoder.reply))
        answered_at = len(out.ids)
        self.add((*encoder.text(turn.answer), encoder.end), BOX_WEIGHT if turn.box else 1.0)
        if scene is not None:
            found = spots(turn, scene)
            for at, box in found.question:
                token = bisect_left(encoder.ends(turn.question), at)
                out.mentions.append((asked_at + token, box))
            for at, box in found.answer:
                token = bisect_right(encoder.ends(turn.answer), at)
                out.items.append((answered_at + token - 1, box))

    def next_user(self) -> None:
        """Open the next user turn after an answer."""
        self.add((*self._encoder.line, *self._encoder.user))

    def branch(self) -> None:
        """Start another branch from the end of the prefix."""
        if self._branch == 0:
            self._prefix_end = self._position
        self._branch += 1
        self._position = self._prefix_end

    def fill(self, chain: Callable[[], Sequence[Turn]], scene: Scene | None = None) -> None:
        """Append chains of turns, each a branch of its own, until the branches are long enough."""
        enough = len(self.out.ids) + BRANCH_TOKENS
        while len(self.out.ids) < enough:
            self.branch()
            for index, turn in enumerate(chain()):
                if index:
                    self.next_user()
                self.turn(turn, scene)


def corpus(turns: Iterable[Turn]) -> Iterator[str]:
    """Yield the texts from which the tokenizer learns."""
    for turn in turns:
        yield turn.question
        yield turn.answer
    yield from ("user", "assistant", "system", "\n") * 50
