"""The next token of each row, drawn reproducibly, and its log-probabilities.

A row's token depends on its own logits, its parameters, its ids and its seed, on nothing else: not
on the batch, the slot, or whether the answer was taken over from another worker. Probabilities are
whole numbers here, so sums are exact and come out the same in whatever order a device adds.

Edits come in vLLM's order: bias and `min_tokens`, then the penalties, temperature, min_p, top_k and
top_p. Knows ids, not text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from broker.messages import SamplingParams
from workers.engines.base import Sampled
from workers.row import Counts, Row

_UNIT = 2**34
"""Weight of a row's most likely token. 2^19 of them are a sum that float64 still holds exactly."""
_MIN_TEMPERATURE = 1e-5
"""Below it float32 may overflow; the most likely token is long certain by then."""
_MIN_REPETITION = 1e-5
"""Below it float32 may overflow, as with the temperature."""
_CPU_ROWS = 4
"""Rows worked on at once on a CPU; with 32 of 49152 logits, fresh pages cost more than the work."""
_UNLIKELY = -9999.0
"""OpenAI's log-probability of what cannot happen; JSON has no infinity."""


@torch.inference_mode()
def sample(logits: torch.Tensor, rows: Sequence[Row]) -> list[Sampled]:
    """Choose a token for each row of `[rows, vocabulary]` logits, which stay as they are."""
    logits = logits.float().contiguous()
    tokens = _choose(edit(logits, rows), rows)
    told = [place for place, row in enumerate(rows) if row.params.logprobs is not None]
    if not told:
        return [Sampled(token) for token in tokens]
    sampled = {place: Sampled(token) for place, token in enumerate(tokens)}
    for group in _groups(told, logits):
        picked, wanted = [tokens[place] for place in group], [rows[place] for place in group]
        sampled.update(zip(group, _tell(_pick(logits, group), picked, wanted), strict=True))
    return list(sampled.values())


def weigh(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Chances of each token after temperature and filters: whole numbers, as float32.

    A filter keeps whatever is at least as likely as the least likely token it must keep, so tokens
    that are equally likely stay or go together.

    Args:
        logits: `[rows, vocabulary]`, edited.
        rows: all hot.
    """
    params = [row.params for row in rows]
    temperatures = [max(each.temperature, _MIN_TEMPERATURE) for each in params]
    weights = _weights(logits, logits.new_tensor(temperatures)[:, None])
    filtered = [place for place, each in enumerate(params) if _has_filter(each)]
    if filtered:
        part = _pick(weights, filtered)
        kept = part * (part >= _floor(part, [params[place] for place in filtered]))
        if len(filtered) == len(params):
            return kept
        weights[filtered] = kept
    return weights


def _groups(places: list[int], logits: torch.Tensor) -> list[list[int]]:
    """All rows at once, or few at a time on a CPU, whose cache and allocator hold no more well."""
    size = _CPU_ROWS if _on_cpu(logits) else max(len(places), 1)
    return [places[start : start + size] for start in range(0, len(places), size)]


def _pick(table: torch.Tensor, places: list[int]) -> torch.Tensor:
    return table if len(places) == len(table) else table[places]


def _choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    hot = [place for place, row in enumerate(rows) if row.is_hot]
    tokens: list[int] = [0] * len(rows)
    if len(hot) < len(rows):
        tokens = _greatest(logits)
    for group in _groups(hot, logits):
        wanted = [rows[place] for place in group]
        drawn = _draw(weigh(_pick(logits, group), wanted), wanted)
        for place, token in zip(group, drawn, strict=True):
            tokens[place] = token
    return tokens


def _greatest(logits: torch.Tensor) -> list[int]:
    """The likeliest token of each row, the first of equals; numpy is six times as fast on a CPU."""
    places = logits.numpy().argmax(axis=-1) if _on_cpu(logits) else logits.argmax(dim=-1)
    tokens: list[int] = places.tolist()
    return tokens


def _on_cpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def _weights(logits: torch.Tensor, temperatures: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Whole numbers, as float32, in proportion to the probabilities; `_UNIT` for the likeliest."""
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    return shifted.div_(temperatures).exp_().mul_(_UNIT).round_()


def _draw(weights: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    heaped = weights.double().cumsum(dim=-1)
    points = heaped.new_tensor([[row.point] for row in rows])
    places = torch.searchsorted(heaped, (points * heaped[:, -1:]).floor_(), right=True)
    tokens: list[int] = places.squeeze(-1).clamp_(max=weights.shape[-1] - 1).tolist()
    return tokens


def _has_filter(params: SamplingParams) -> bool:
    return params.top_p < 1.0 or params.top_k > 0 or params.min_p > 0.0


def _floor(weights: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """The least weight that each row's filters keep, `[rows, 1]`."""
    floor = weights.new_tensor([[each.min_p * _UNIT] for each in params])
    if all(each.top_p == 1.0 and each.top_k <= 0 for each in params):
        return floor
    size = weights.shape[-1]
    ascending = _sort(weights)
    drops = [[size - min(each.top_k, size) if each.top_k > 0 else 0] for each in params]
    kth = ascending.gather(-1, torch.tensor(drops, device=weights.device))
    floor = torch.maximum(floor, kth)
    heaped = (ascending * (ascending >= floor)).double().cumsum(dim=-1)
    outside = heaped.new_tensor([[1.0 - each.top_p] for each in params]) * heaped[:, -1:]
    least = torch.searchsorted(heaped, outside, right=True).clamp_(max=size - 1)
    return ascending.gather(-1, least)


def _sort(weights: torch.Tensor) -> torch.Tensor:
    """Each row's weights, smallest first; on a CPU numpy is twenty times as fast as torch."""
    if _on_cpu(weights):
        return torch.from_numpy(np.sort(weights.numpy(), axis=-1))
    return weights.sort(dim=-1).values


def edit(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Apply bias, `min_tokens` and penalties to a copy; return `logits` if nobody wants any.

    Args:
        logits: `[rows, vocabulary]`, float32 and contiguous.
        rows: theirs; the ids of a bias must be within the vocabulary.
    """
    width = logits.shape[-1]
    biased = [place for place, row in enumerate(rows) if row.bias]
    forbidden = [row.forbidden for row in rows]
    counted = {place: each for place, row in enumerate(rows) if (each := row.counts) is not None}
    if not (biased or counted or any(map(len, forbidden))):
        return logits
    edited = logits.clone()
    cells = edited.view(-1)
    if biased:
        ids = [np.fromiter(rows[place].bias, dtype=np.int64) for place in biased]
        values = [value for place in biased for value in rows[place].bias.values()]
        at = _cells(ids, biased, width, logits.device)
        cells[at] += logits.new_tensor(values)
    if any(map(len, forbidden)):
        inside = [ids[ids < width] for ids in forbidden]
        cells[_cells(inside, range(len(rows)), width, logits.device)] = -math.inf
    if counted:
        at = _cells([each.ids for each in counted.values()], counted, width, logits.device)
        cells[at] = _penalise(cells[at], counted, [rows[place].params for place in counted])
    return edited


def _cells(
    ids: Sequence[NDArray[np.int64]], places: Iterable[int], width: int, device: torch.device
) -> torch.Tensor:
    """Places of ids, given per row, in the flattened logits."""
    rows = np.repeat(np.fromiter(places, dtype=np.int64), [len(each) for each in ids])
    return torch.from_numpy(rows * width + np.concatenate(ids)).to(device)


def _penalise(
    logits: torch.Tensor, counted: dict[int, Counts], params: Sequence[SamplingParams]
) -> torch.Tensor:
    """Apply the three penalties to the logits of the counted ids, all rows' in one vector."""
    wishes = np.array(
        [
            (
                max(each.repetition_penalty, _MIN_REPETITION),
                each.frequency_penalty,
                each.presence_penalty,
            )
            for each in params
        ],
        dtype=np.float32,
    )
    lengths = [len(each.ids) for each in counted.values()]
    spread = torch.from_numpy(np.repeat(wishes, lengths, axis=0)).to(logits.device)
    times = np.concatenate([each.times for each in counted.values()])
    said = torch.from_numpy(times).to(logits.device)
    repetition, frequency, presence = spread.unbind(-1)
    logits = torch.where(logits < 0, logits * repetition, logits / repetition)
    return logits - said * frequency - (said > 0) * presence


def _tell(logits: torch.Tensor, tokens: list[int], rows: Sequence[Row]) -> list[Sampled]:
    """Tokens with their log-probabilities, and those of the likeliest, by the model alone."""
    count = min(max(row.params.logprobs or 0 for row in rows), logits.shape[-1])
    likeliest = _likeliest(logits, count)
    ids = torch.cat((likeliest.new_tensor(tokens)[:, None], likeliest), dim=-1)
    distances = (logits.gather(-1, ids) - logits.amax(dim=-1, keepdim=True)).tolist()
    totals = _weights(logits).double().sum(dim=-1).tolist()
    sampled = []
    for row, near, away, total in zip(rows, ids.tolist(), distances, totals, strict=True):
        log_total = math.log(total / _UNIT)
        (token, logprob), *top = (
            (token_id, max(round(distance - log_total, 6), _UNLIKELY))
            for token_id, distance in zip(near, away, strict=True)
        )
        sampled.append(Sampled(token, logprob, tuple(top[: row.params.logprobs])))
    return sampled


def _likeliest(logits: torch.Tensor, count: int) -> torch.Tensor:
    """Ids of the `count` greatest logits of each row, greatest first, lower ids before equals."""
    if not count:
        return torch.empty((len(logits), 0), dtype=torch.int64, device=logits.device)
    bits = (logits + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    ids = torch.arange(logits.shape[-1], device=logits.device)
    keys = ordered.long() * 2**32 - ids
    return -keys.topk(count, dim=-1).values & 0xFFFFFFFF
