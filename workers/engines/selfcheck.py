"""A check at load time that a model computes here what it computes by itself.

A few tokens, and a picture if the model takes any, go once through the plain model and once through
the slot cache in pieces. A family whose positions, masks or picture features need more than this
engine does is refused with a clear error, rather than answering a little wrongly for ever.
"""

from __future__ import annotations

import inspect

import torch
from PIL import Image
from transformers import PreTrainedModel

from broker.errors import ConfigurationError
from workers.engines import attention
from workers.engines.cache import SlotCache
from workers.engines.layout import Layout, Placement
from workers.engines.pictures import Key, PictureProcessor, Span
from workers.engines.runner import Piece, Runner

_TOLERANCE = {torch.float32: 0.01}
_LOW_PRECISION_TOLERANCE = 0.25
_WORDS = 12
_KINDS = ("mm_token_type_ids", "token_type_ids")
"""What models call it that a token is a picture's."""


def check(model: PreTrainedModel, pictures: PictureProcessor | None) -> dict[torch.device, int]:
    """Compare, and switch the model to slot attention.

    Returns:
        The bytes of keys and values that one token takes on each device.

    Raises:
        ConfigurationError: the model cannot run on the slot cache, or gives other results there.
    """
    family = model.config.model_type
    try:
        ids, spans = _probe(model, pictures)
        expected = _plain(model, ids, spans)
        attention.switch(model)
        cache = SlotCache(2, len(ids))
        placement = Placement(model)
        joints = placement.joints(spans)
        cut = joints[0].stop if joints else len(ids) // 2
        got = _in_pieces(Runner(model, cache), ids, placement.lay_out(ids, spans), cut)
    except Exception as error:  # whatever a family that does not fit here stumbles over
        raise ConfigurationError(f"{family}: this family is not supported ({error})") from error
    spread = (expected - expected.mean()).norm()
    error_size = ((got - expected).norm() / spread).item()
    if not error_size < _TOLERANCE.get(model.dtype, _LOW_PRECISION_TOLERANCE):
        raise ConfigurationError(
            f"{family}: this family is not supported (its results differ by {error_size:.1%})"
        )
    return cache.token_bytes


def _probe(
    model: PreTrainedModel, pictures: PictureProcessor | None
) -> tuple[list[int], tuple[Span, ...]]:
    words = [3 + 7 * i % (model.config.get_text_config().vocab_size - 3) for i in range(_WORDS)]
    if pictures is None:
        return words, ()
    words = [word + (word == pictures.token_id) for word in words]
    pixels = pictures.process(Key("probe"), Image.linear_gradient("L").convert("RGB"))
    ids = [*words, *pixels.ids, *reversed(words)]
    places = (i for i, token_id in enumerate(ids) if token_id == pictures.token_id)
    return ids, (Span(pixels, tuple(places)),)


@torch.inference_mode()
def _plain(model: PreTrainedModel, ids: list[int], spans: tuple[Span, ...]) -> torch.Tensor:
    inputs = {name: value for span in spans for name, value in span.pixels.inputs.items()}
    inputs["input_ids"] = torch.tensor([ids])
    takes = inspect.signature(model.forward).parameters
    kinds = torch.zeros((1, len(ids)), dtype=torch.int)
    for span in spans:
        kinds[0, list(span.positions)] = 1
    inputs |= {name: kinds for name in _KINDS if spans and name in takes}
    output = model(**{name: value.to(model.device) for name, value in inputs.items()})
    logits: torch.Tensor = output.logits[0, -1].float()
    return logits


def _in_pieces(runner: Runner, ids: list[int], layout: Layout, cut: int) -> torch.Tensor:
    """Prefill in two pieces beside another row, then decode the last token beside it."""
    last = len(ids) - 1
    runner.run([Piece(1, ids[:cut], 0, False, layout), Piece(0, ids[:3], 0, False)])
    runner.run([Piece(0, ids[3:4], 3), Piece(1, ids[cut:-1], cut, False, layout)])
    return runner.run([Piece(0, ids[4:5], 4), Piece(1, ids[-1:], last, layout=layout)])[1].float()
