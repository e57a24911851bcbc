"""The order in which a run reads its sequences: all of them, again and again, each time shuffled anew."""

from __future__ import annotations

import numpy as np

from hwsearch.training.sequences import Ids


class Order:
    """Draws `count` sequences an epoch. What is drawn is epoch * count + number, so that epochs differ.

    The generator is PCG64DXSM, as ModernBERT's authors chose (arXiv 2412.13663, appendix C.1).
    """

    def __init__(self, count: int, seed: int, epoch: int = 0, position: int = 0) -> None:
        self.count, self.seed, self.epoch, self.position = count, seed, epoch, position
        self._shuffled = self._shuffle()

    def draw(self, wanted: int) -> Ids:
        """The next `wanted` draws, int64; an epoch's end is the next one's beginning."""
        drawn = []
        while wanted:
            part = self._shuffled[self.position : self.position + wanted]
            drawn.append(part + self.epoch * self.count)
            self.position += len(part)
            wanted -= len(part)
            if self.position == self.count:
                self.epoch, self.position = self.epoch + 1, 0
                self._shuffled = self._shuffle()
        return np.concatenate(drawn) if drawn else np.empty(0, np.int64)

    def _shuffle(self) -> Ids:
        generator = np.random.Generator(np.random.PCG64DXSM([self.seed, self.epoch]))
        return generator.permutation(self.count)
