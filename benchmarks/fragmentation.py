"""Memory that PyTorch's caching allocator needs for an encoder's forward pass, over the bytes alive in it.

    python benchmarks/fragmentation.py > results/fragmentation.txt

The allocations and frees of two batches, recorded on the CPU from the models' own code without gradients,
are replayed through the allocator's rules for large blocks (c10/cuda/CUDACachingAllocator.cpp): best fit,
blocks split where more than 1 MiB is left, neighbours joined, whole free segments given back when
memory runs out. Sizes are scaled so that a hidden state takes 1 GiB. Attention sees 512 keys with heads of
64, as in every encoder of the ModernBERT paper, so that scores have their true share.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from memory_accounting import LiveBytes
from transformers.models.gte import GteConfig, GteModel
from transformers.models.nomic_bert import NomicBertConfig, NomicBertModel

from hwsearch.model import MaskedLanguageModel
from hwsearch.shape import parse_shape

Event = tuple[int, int | None]
HIDDEN, LAYERS, BATCH, LENGTH = 64, 4, 16, 512
MIB, GIB = 1 << 20, 1 << 30
SEGMENT_STEP, SPLIT_REST = 2 * MIB, MIB


class Blocks:
    """Memory of `capacity` bytes behind the caching allocator; every segment is a list of [bytes, owner]."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.segments: list[list[list[int | None]]] = []
        self.segment_of: dict[int, list[list[int | None]]] = {}

    def take(self, owner: int, size: int) -> bool:
        """Whether there is room."""
        fitting = [
            (block[0], number, place)
            for number, segment in enumerate(self.segments)
            for place, block in enumerate(segment)
            if block[1] is None and _bytes(block) >= size
        ]
        if fitting:
            _, number, place = min(fitting)
            segment = self.segments[number]
        else:
            wanted = -(-size // SEGMENT_STEP) * SEGMENT_STEP
            if self._reserved() + wanted > self.capacity:
                self.segments = [s for s in self.segments if len(s) > 1 or s[0][1] is not None]
            if self._reserved() + wanted > self.capacity:
                return False
            segment, place = [[wanted, None]], 0
            self.segments.append(segment)
        block = segment[place]
        if (rest := _bytes(block) - size) > SPLIT_REST:
            segment.insert(place + 1, [rest, None])
            block[0] = size
        block[1] = owner
        self.segment_of[owner] = segment
        return True

    def give_back(self, owner: int) -> None:
        segment = self.segment_of.pop(owner)
        place = next(i for i, block in enumerate(segment) if block[1] == owner)
        segment[place][1] = None
        for left in (place, place - 1):
            if 0 <= left < len(segment) - 1 and segment[left][1] is segment[left + 1][1] is None:
                segment[left][0] = _bytes(segment[left]) + _bytes(segment.pop(left + 1))

    def _reserved(self) -> int:
        return sum(_bytes(block) for segment in self.segments for block in segment)


def _bytes(block: list[int | None]) -> int:
    assert block[0] is not None
    return block[0]


def fits(events: Sequence[Event], scale: int, capacity: int) -> bool:
    blocks = Blocks(capacity)
    for number, size in events:
        if size is None:
            blocks.give_back(number)
        elif not blocks.take(number, size * scale):
            return False
    return True


def needed(events: Sequence[Event], peak: int, scale: int) -> float:
    """The least memory that runs through, over the bytes alive."""
    low, high = 1.0, 2.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        if fits(events, scale, int(peak * scale * middle)):
            high = middle
        else:
            low = middle
    return high


def subjects() -> dict[str, Callable[[], object]]:
    """Backbones by name, each run on the same batch; feed-forward widths are those of the papers."""
    tokens = torch.randint(5, 512, (BATCH, LENGTH))
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    sizes: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 1,
        "intermediate_size": 4 * HIDDEN,
        "pad_token_id": 0,
        "attn_implementation": "sdpa",
    }
    eager = {**sizes, "attn_implementation": "eager", "max_position_embeddings": LENGTH + 2}
    relative: dict[str, Any] = {
        "relative_attention": True,
        "position_buckets": LENGTH // 2,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "type_vocab_size": 0,
    }
    models: dict[str, Any] = {
        "bert": transformers.BertModel(transformers.BertConfig(**sizes)),
        "roberta": transformers.RobertaModel(transformers.RobertaConfig(**eager)),
        "deberta-v3": transformers.DebertaV2Model(transformers.DebertaV2Config(**eager, **relative)),
        "nomic-bert": NomicBertModel(NomicBertConfig(**sizes)),
        "gte": GteModel(GteConfig(**sizes)),
    }
    found = {name: _run(model.eval(), given) for name, model in models.items()}
    offsets = torch.arange(0, BATCH * LENGTH + 1, LENGTH)
    for name, ratio in (("modernbert-base", 1.5), ("modernbert-large", 2.5625)):
        ours = MaskedLanguageModel(
            parse_shape(f"L{LAYERS}-h{HIDDEN}-a1-i{int(ratio * HIDDEN)}-v512-g1")
        ).model
        found[name] = _run(ours, {"tokens_T": tokens.flatten(), "cu_seqlens": offsets, "max_seqlen": LENGTH})
    return found


def _run(model: Any, given: dict[str, Any]) -> Callable[[], object]:
    return lambda: model(**given)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    hidden_state = BATCH * LENGTH * HIDDEN * 4
    print("python benchmarks/fragmentation.py")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, float32; h: a hidden state\n")
    for name, run in subjects().items():
        with torch.inference_mode(), LiveBytes() as live:
            run()  # the warm-up batch leaves its segments behind
            run()
        share = needed(live.events, live.peak, GIB // hidden_state)
        alive = live.peak / hidden_state
        print(f"{name:<18}{alive:6.1f} h alive   {share:5.3f} x needed (+ {(share - 1) * alive:4.1f} h)")


if __name__ == "__main__":
    main()
