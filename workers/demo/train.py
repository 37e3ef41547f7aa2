"""Train the demo model on the CPU: `python -m workers.demo.train --out DIR --minutes N [--resume]`.

Recipe: bfloat16 weights with float32 masters, Muon for the matrices and AdamW for the rest, linear
warm-up, a plateau and linear decay, a moving average that is what gets saved, two single-threaded
processes whose gradients are averaged. Early batches hold mostly bare tiles, which teach the vision
tower cheaply (`objective`), later ones mostly chats.

The shipped weights took 11541 steps in 226 minutes on two shared cores, resumed several times while
this recipe was found: the rate was 2e-3 with cosine decay at first, position coordinates and the
token head came in after 1,555 to 2,469 steps, the places at words (`spots`) and more practice of
lists and relations after 4,938. `--resume` goes on from `DIR/state.pt` when `--minutes` or
`--steps`, which count the whole run, are larger than before, or, without that file, from the
weights in `DIR/model` (copy `workers/demo/model` there).
"""

import argparse
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import AttentionInterface, InternVLForConditionalGeneration

from workers.demo import pairs, questions, smalltalk
from workers.demo.architecture import build_model, save_checkpoint
from workers.demo.objective import PATCH_WEIGHT, Objective, training_attention
from workers.demo.painting import random_style
from workers.demo.prompts import Encoder, corpus, train_tokenizer
from workers.demo.samples import Batches
from workers.demo.scenes import TRAIN_SEEDS, random_scene

SEED = 1
LEARNING_RATE = 1.5e-3
DECAY_SHARE = 0.4
WARM_UP_STEPS = 100
EASY_STEPS = 1000
AVERAGE_DECAY = 0.996
SAVE_EVERY_S = 120.0
PROCESSES = 2
log = logging.getLogger(__name__)


class Masters:
    """Float32 copies of the bfloat16 weights: optimised, averaged and copied back."""

    def __init__(self, module: nn.Module) -> None:
        self._weights = [p for p in module.parameters() if p.requires_grad]
        self.copies = [nn.Parameter(p.detach().float().clone()) for p in self._weights]
        self.averages = [c.detach().clone() for c in self.copies]
        matrices = [c for c, n in zip(self.copies, self._names(module), strict=True) if n]
        others = [c for c, n in zip(self.copies, self._names(module), strict=True) if not n]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=1.0, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]

    @staticmethod
    def _names(module: nn.Module) -> list[bool]:
        return [
            p.ndim == 2 and "embed" not in name and "head." not in name
            for name, p in module.named_parameters()
            if p.requires_grad
        ]

    def gather(self, extra: list[float]) -> list[float]:
        """Average the gradients, and some numbers with them, over the processes."""
        pairs = zip(self._weights, self.copies, strict=True)
        used = [(w, c, w.grad) for w, c in pairs if w.grad is not None]
        flat = torch.cat([torch.tensor(extra), *(grad.flatten().float() for _, _, grad in used)])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        numbers, *parts = torch.split(flat, [len(extra), *(c.numel() for _, c, _ in used)])
        for copy in self.copies:
            copy.grad = None
        for (weight, copy, _), part in zip(used, parts, strict=True):
            copy.grad, weight.grad = part.view_as(copy), None
        return list(numbers.tolist())

    def step(self, rate: float, decay: float) -> None:
        """Apply the gathered gradients at this learning rate."""
        nn.utils.clip_grad_norm_(self.copies, 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, [c.data for c in self.copies], 1 - decay)
        self.publish(self.copies)

    @torch.no_grad()
    def publish(self, values: list[Any]) -> None:
        """Write float32 values into the bfloat16 weights."""
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on."""
        return {
            "copies": [c.data for c in self.copies],
            "averages": self.averages,
            "optimizers": [o.state_dict() for o in self.optimizers],
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        for copy, average, new, mean in zip(
            self.copies, self.averages, state["copies"], state["averages"], strict=True
        ):
            copy.copy_(new)
            average.copy_(mean)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.publish(self.copies)


@dataclass(slots=True)
class Progress:
    """How far the run is, in steps and in seconds spent over all its sessions."""

    step: int = 0
    spent_s: float = 0.0

    def share(self, minutes: float | None, steps: int) -> float:
        """Return the finished share of the run."""
        return self.step / steps if minutes is None else self.spent_s / (60 * minutes)

    def rate(self, share: float) -> float:
        """Return the learning rate: warm-up by steps, a plateau, then linear decay by share."""
        left = max(0.01, (1 - share) / DECAY_SHARE)
        return LEARNING_RATE * min(1.0, (self.step + 1) / WARM_UP_STEPS, left)

    def decay(self) -> float:
        """Return the decay of the average, short-sighted at first."""
        return min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))


def prepare_tokenizer(folder: Path) -> None:
    """Train the tokenizer on sample turns unless the folder has one."""
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        rng = Random(TRAIN_SEEDS[SEED])
        turns = [smalltalk.text_only(rng) for _ in range(6000)]
        turns += [smalltalk.about_clutter(rng) for _ in range(2000)]
        for _ in range(20_000):
            style = random_style(rng)
            scene = random_scene(rng, style)
            turns += [questions.about_scene(rng, scene), pairs.about_two(rng, scene, scene)]
        train_tokenizer(corpus(turns)).save(str(folder / "tokenizer.json"))


def run(rank: int, out: Path, minutes: float | None, steps: int, resume: bool) -> None:
    """Train in one of `PROCESSES` until time or steps are spent; the first one saves."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    distributed.init_process_group(
        "gloo", init_method=f"file://{out / 'meeting'}", rank=rank, world_size=PROCESSES
    )
    AttentionInterface.register("training", training_attention)
    encoder = Encoder.load(out / "model")
    progress = Progress()
    if resume and not (out / "state.pt").exists():
        # Weights without the optimiser's state: a fresh schedule that skips the easy batches.
        model = InternVLForConditionalGeneration.from_pretrained(out / "model", dtype="float32")
        progress.step = EASY_STEPS
    else:
        model = build_model(encoder)
    model.set_attn_implementation("training")
    objective = Objective(model).to(torch.bfloat16).train()
    masters = Masters(objective)
    if resume and (out / "state.pt").exists():
        saved = torch.load(out / "state.pt", weights_only=True)
        masters.restore(saved["masters"])
        progress = Progress(saved["step"], saved["spent_s"])
    batches = Batches(encoder, SEED, rank, progress.step, EASY_STEPS)
    loader = DataLoader(
        batches, batch_size=None, num_workers=1, prefetch_factor=6, multiprocessing_context="fork"
    )
    stream = iter(loader)
    bar = tqdm(
        initial=progress.step, total=None if minutes else steps, mininterval=10, disable=rank > 0
    )
    means: list[float] = []
    lap_at = saved_at = time.monotonic()
    while (share := progress.share(minutes, steps)) < 1:
        answer, patch, right = objective(next(stream))
        (answer + PATCH_WEIGHT * patch).backward()
        lap_s, lap_at = time.monotonic() - lap_at, time.monotonic()
        *now, lap_s = masters.gather([float(answer), float(patch), float(right), lap_s])
        masters.step(progress.rate(share), progress.decay())
        if now[2]:
            means = [0.98 * m + 0.02 * n for m, n in zip(means or now, now, strict=True)]
        progress.step += 1
        progress.spent_s += lap_s
        bar.update()
        bar.set_postfix_str(
            "answer {:.3f} patch {:.3f} right {:.3f} at {:.1%}".format(*means or (0, 0, 0), share)
        )
        if rank == 0 and time.monotonic() - saved_at > SAVE_EVERY_S:
            save(out, objective, masters, progress)
            saved_at = time.monotonic()
    bar.close()
    if rank == 0:
        save(out, objective, masters, progress)


def save(out: Path, objective: Objective, masters: Masters, progress: Progress) -> None:
    """Write the averaged model and the state to resume from, each complete or not at all."""
    masters.publish(masters.averages)
    save_checkpoint(objective.model, out / "model")
    masters.publish(masters.copies)
    state = {"masters": masters.state(), "step": progress.step, "spent_s": progress.spent_s}
    torch.save(state, out / "state.pt.new")
    (out / "state.pt.new").replace(out / "state.pt")
    log.info("saved step %d", progress.step)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float)
    length.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    log.info("training with %s", json.dumps(vars(args), default=str))
    prepare_tokenizer(args.out / "model")
    (args.out / "meeting").unlink(missing_ok=True)
    settings = (args.out, args.minutes, args.steps, args.resume)
    spawn(run, settings, nprocs=PROCESSES)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
