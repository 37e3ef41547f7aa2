"""Requests to sequences for the local engine: the work that may overlap with decoding.

Owns prompt ids, picture preprocessing, limits and the detokenizer of a checkpoint. Touches neither
model nor cache, and is safe to use from several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer

from broker.errors import InvalidRequest
from broker.events import SeenImage
from broker.messages import GenerateRequest, ImagePart, pictures
from workers.detokenize import Detokenizer
from workers.engines.checkpoint import Checkpoint
from workers.engines.layout import Placement
from workers.engines.pictures import Key, Pixels, Span
from workers.images import load_image, process_image
from workers.prompt import Prompt, PromptBuilder
from workers.sequence import Sequence, answer_room
from workers.spelling import Spelling
from workers.tiling import tile_budget

_MARKUP = frozenset(("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"))
"""Special tokens of InternVL's and Qwen-VL's answers that are meant to be read."""


class Preparer:
    """Turns requests into sequences for one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, context_length: int, max_image_pixels: int) -> None:
        self._pictures = checkpoint.pictures
        self._placement = Placement(checkpoint.model)
        self._context_length = context_length
        self._max_image_pixels = max_image_pixels
        pictures = (self._pictures.token, self._pictures.frame) if self._pictures else ()
        self._prompts = PromptBuilder(checkpoint.tokenizer, checkpoint.template, *pictures)
        self._eos_ids = _eos_ids(checkpoint, self._prompts.end_of_turn())
        self._decode = _decoder(checkpoint.tokenizer.backend_tokenizer, self._eos_ids)
        self._spell = Spelling(checkpoint.tokenizer.backend_tokenizer)
        self._vocabulary = checkpoint.model.config.get_text_config().vocab_size

    def prepare(
        self, request: GenerateRequest, images: Mapping[str, bytes], resume_ids: tuple[int, ...]
    ) -> Sequence:
        """See `Engine.prepare`."""
        messages = self._prompts.translate(request.messages)
        request = request.model_copy(update={"messages": messages})
        pixels, seen = self._load_pictures(request, images)
        prompt = self._prompts.build(messages)
        ids, spans = _join(prompt, pixels, self._image_id)
        if not ids:
            raise InvalidRequest("The conversation is empty.", param="messages")
        sampling = request.sampling
        self._check_ids("logit_bias", sampling.logit_bias)
        self._check_ids("stop_token_ids", sampling.stop_token_ids)
        sequence = Sequence(
            request_id=request.id,
            prompt_ids=tuple(ids),
            sampling=sampling,
            max_tokens=answer_room(len(ids), sampling.max_tokens, self._context_length),
            eos_ids=self._eos_ids,
            detokenizer=Detokenizer(
                self._decode, (*sampling.stop, *prompt.stop), sampling.min_tokens
            ),
            payload=self._placement.lay_out(ids, spans),
            joints=self._placement.joints(spans),
            images=seen,
            spell=self._spell,
        )
        sequence.resume(resume_ids)
        return sequence

    def count_tokens(self, text: str) -> int:
        """See `Engine.count_tokens`."""
        return self._prompts.count(text)

    def _check_ids(self, param: str, ids: Iterable[int]) -> None:
        """Refuse ids that the model has no logits for."""
        for token_id in ids:
            if token_id >= self._vocabulary:
                raise InvalidRequest(
                    f"{param}: this model's token ids go from 0 to {self._vocabulary - 1}; "
                    f"{token_id} was sent.",
                    param=param,
                )

    @property
    def _image_id(self) -> int:
        return self._pictures.token_id if self._pictures else -1

    def _load_pictures(
        self, request: GenerateRequest, images: Mapping[str, bytes]
    ) -> tuple[list[Pixels], tuple[SeenImage, ...]]:
        if not request.images:
            return [], ()
        if self._pictures is None:
            raise InvalidRequest("This model takes no images.", param="messages")
        keys = _keys(request, self._pictures.tiles)
        loaded: dict[Key, Pixels] = {}
        seen: dict[Key, SeenImage] = {}
        # Each is decoded once, even for two numbers of tiles, and gone before the next.
        for sha256 in dict.fromkeys(request.images):
            picture = load_image(images.get(sha256, b""), self._max_image_pixels)
            size = picture.size
            if request.sampling.image_process_mode:
                picture = process_image(picture, request.sampling.image_process_mode)
            for key in {key for key in keys if key.sha256 == sha256}:
                pixels = loaded[key] = self._pictures.process(key, picture)
                seen[key] = SeenImage(*size, *pixels.grain, len(pixels.ids))
        return [loaded[key] for key in keys], tuple(seen[key] for key in keys)


def _keys(request: GenerateRequest, tiles: bool) -> list[Key]:
    """The key of each picture of the conversation; those of a turn share the tiles.

    A frame of a video is one tile. A model that does not cut pictures gets no limit: features would
    be computed anew for another.
    """
    limit = request.sampling.max_input_tiles if tiles else None
    counts = [
        sum(isinstance(part, ImagePart) for part in message.content) for message in request.messages
    ]
    limits = iter(tile_budget(counts, limit) if limit else [None] * sum(counts))
    mode = request.sampling.image_process_mode
    keys = []
    for part in (part for message in request.messages for part in message.content):
        if isinstance(part, ImagePart):
            keys.append(Key(part.sha256, next(limits), mode))
        else:
            keys += [Key(sha256, 1 if tiles else None, mode) for sha256 in pictures(part)]
    return keys


def _join(
    prompt: Prompt, pixels: list[Pixels], image_id: int
) -> tuple[list[int], tuple[Span, ...]]:
    """Put the pictures' ids between the prompt's runs, and note where their features go."""
    ids = list(prompt.runs[0])
    spans = []
    for picture, run in zip(pixels, prompt.runs[1:], strict=True):
        start = len(ids)
        places = (i for i, token_id in enumerate(picture.ids, start) if token_id == image_id)
        spans.append(Span(picture, tuple(places)))
        ids += picture.ids
        ids += run
    return ids, tuple(spans)


def _eos_ids(checkpoint: Checkpoint, end_of_turn: int | None) -> frozenset[int]:
    """Ids that end an answer: the generation settings', the tokenizer's and the template's."""
    settings: Any = checkpoint.model.generation_config
    named = settings.eos_token_id if settings else None
    ids = list(named) if isinstance(named, list | tuple) else [named]
    return frozenset(
        token_id
        for token_id in (*ids, checkpoint.tokenizer.eos_token_id, end_of_turn)
        if token_id is not None
    )


def _decoder(tokenizer: Tokenizer, eos_ids: frozenset[int]) -> Callable[[list[int]], str]:
    """Ids to text, without the control tokens that nobody wants to read."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    added = tokenizer.get_added_tokens_decoder().items()
    hidden = {i for i, token in added if token.special and token.content not in _MARKUP} | eos_ids

    def decode(ids: list[int]) -> str:
        shown = [token_id for token_id in ids if token_id not in hidden]
        return tokenizer.decode(shown, skip_special_tokens=False)

    return decode
