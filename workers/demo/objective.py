"""What training minimises: the answers' loss, and that of a head that exists in training only.

The head has to read, from the vision tower's patches and from the image tokens that the language
model sees, which shape is centred where, and its box. Without it the tower took most of the
training to tell a star from a circle, and the language model found no positions to speak of.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import InternVLForConditionalGeneration, PreTrainedConfig

from workers.demo.architecture import IMAGE_MEAN, IMAGE_STD
from workers.demo.prompts import IGNORE
from workers.demo.samples import CELLS, Batch
from workers.demo.scenes import COLOURS, KINDS

PATCH_WEIGHT = 0.2
PLACE_WEIGHT = 3.0
MENTION_DEPTH, ITEM_DEPTH = 3, 4
NAMES = 1 + len(COLOURS) * len(KINDS)


class PatchHead(nn.Module):
    """Name the shape centred in each patch and its box, from patches and from image tokens."""

    def __init__(self, width: int, token_width: int) -> None:
        super().__init__()
        self.names = nn.Linear(width, NAMES)
        self.boxes = nn.Linear(width, 4)
        self.kinds = nn.Linear(width, 1 + len(KINDS))
        self.token_names = nn.Linear(token_width, 4 * NAMES)
        self.token_boxes = nn.Linear(token_width, 4)
        self.mentions = nn.Linear(token_width, 4)
        self.items = nn.Linear(token_width, 4)

    def forward(self, patches: Tensor, tokens: Tensor, batch: Batch) -> Tensor:
        """Return the loss of patches (tiles, 64, width) and tokens (tiles, 16, token_width)."""
        return self._patch_loss(patches, batch) + self._token_loss(tokens, batch)

    def places(self, layers: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return how far the places that the language model holds at words are off.

        What a question mentions has to be known by `MENTION_DEPTH` layers, in time to be compared;
        what the answer names next, by `ITEM_DEPTH`. Each is a share of the picture's sides.
        """
        loss = torch.zeros(())
        for name, depth in (("mentions", MENTION_DEPTH), ("items", ITEM_DEPTH)):
            marks = batch[name]
            width = layers[depth].shape[-1]
            held = layers[depth].reshape(-1, width)[marks[:, 0].long()]
            read = getattr(self, name)(functional.rms_norm(held, (width,))).float()
            far = functional.l1_loss(read, marks[:, 1:], reduction="sum")
            loss = loss + far / (4 * max(1, len(marks)))
        return loss

    def _patch_loss(self, patches: Tensor, batch: Batch) -> Tensor:
        objects, boxes = batch["objects"], batch["boxes"]
        there = objects > 0
        named = naming_loss(self.names(patches), objects)
        kinds = functional.cross_entropy(
            self.kinds(patches).float().flatten(0, 1), batch["kinds"].flatten()
        )
        edges = functional.l1_loss(self.boxes(patches[there]).float(), boxes[there])
        return named + 2 * kinds + 10 * edges

    def _token_loss(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Read the names in the 2 x 2 patches of each token, and the box of a shape alone in it.

        The box counts from the tile's corner and is read alike whichever patch holds the shape,
        so the language model can read it too.
        """
        objects = by_token(batch["objects"][..., None])[..., 0]
        middles = (torch.arange(CELLS) + 0.5) / CELLS
        down, across = torch.meshgrid(middles, middles, indexing="ij")
        places = torch.stack([across, down, across, down], -1).view(1, CELLS * CELLS, 4)
        boxes = by_token(places + batch["boxes"] * torch.tensor([-1, -1, 1, 1]))
        there = objects > 0
        alone = there.sum(-1) == 1
        found = self.token_boxes(tokens).float()
        edges = functional.l1_loss(found[alone], boxes[alone][there[alone]])
        return naming_loss(self.token_names(tokens).unflatten(-1, (4, NAMES)), objects) + 10 * edges


def naming_loss(scores: Tensor, objects: Tensor) -> Tensor:
    """Return the cross entropy of places with a shape plus that of places without."""
    there = objects.flatten() > 0
    costs = functional.cross_entropy(
        scores.float().reshape(-1, NAMES), objects.flatten(), reduction="none"
    )
    return costs[there].mean() + costs[~there].mean()


def by_token(cells: Tensor) -> Tensor:
    """Regroup (tiles, 64, n) by patch as (tiles, 16, 4, n) by image token."""
    half = CELLS // 2
    grid = cells.reshape(-1, half, 2, half, 2, cells.shape[-1])
    return grid.transpose(2, 3).reshape(-1, half * half, 4, cells.shape[-1])


def attention_mask(branches: Tensor, dtype: torch.dtype) -> Tensor:
    """Let each token see earlier tokens of the prefix and of its own branch."""
    length = branches.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    queries, keys = branches[:, :, None], branches[:, None, :]
    seen = earlier & ((keys == 0) | (keys == queries))
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -1e4)[:, None]


def training_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend with plain products, whose backward pass the CPU runs fastest at these sizes."""
    batch, heads, length, width = query.shape
    query, key, value = (t.reshape(batch * heads, length, width) for t in (query, key, value))
    if attention_mask is None:
        scores = torch.bmm(query * scaling, key.transpose(1, 2))
    else:
        mask = attention_mask.expand(batch, heads, length, length).flatten(0, 1)
        scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scaling)
    mixed = torch.bmm(scores.softmax(-1), value).view(batch, heads, length, width)
    return mixed.transpose(1, 2).contiguous(), None


class Objective(nn.Module):
    """The model with its training-only head; returns answer loss, patch loss and accuracy."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: InternVLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        vision, text = model.config.vision_config, model.config.text_config
        assert isinstance(vision, PreTrainedConfig) and isinstance(text, PreTrainedConfig)
        self.head = PatchHead(vision.hidden_size, text.hidden_size)
        mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return weighted answer loss, patch loss and share of answer tokens right."""
        inner = self.model.model
        patch_loss = torch.zeros(())
        features = None
        if "tiles" in batch:
            pixels = (batch["tiles"].to(self.mean.dtype) / 255 - self.mean) / self.std
            vision = inner.get_image_features(pixel_values=pixels, return_dict=True)
            patches = vision.last_hidden_state[:, 1:]
            features = vision.pooler_output
            patch_loss = self.head(patches, features, batch)
        if "ids" not in batch:
            return torch.zeros(()), patch_loss / PATCH_WEIGHT, torch.zeros(())
        embeds = inner.get_input_embeddings()(batch["ids"])
        if features is not None:
            places = batch["ids"] == self.model.config.image_token_id
            embeds = embeds.masked_scatter(places[..., None], features)
        output = inner.language_model(
            inputs_embeds=embeds,
            attention_mask=attention_mask(batch["branches"], embeds.dtype),
            position_ids=batch["positions"],
            use_cache=False,
            output_hidden_states=True,
        )
        places = PLACE_WEIGHT * self.head.places(output.hidden_states, batch)
        hidden = output.last_hidden_state
        asked = batch["targets"] != IGNORE
        logits = self.model.lm_head(hidden[asked]).float()
        targets, weights = batch["targets"][asked], batch["weights"][asked]
        costs = functional.cross_entropy(logits, targets, reduction="none")
        right = (logits.argmax(-1) == targets).float().mean()
        answer = (costs * weights).sum() / weights.sum()
        return answer, patch_loss + places / PATCH_WEIGHT, right
