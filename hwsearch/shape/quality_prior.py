"""A prior on the quality of a shape. It is a prior, never an accuracy.

Kaplan et al. 2020 (arXiv 2001.08361): at a fixed count N of parameters outside the embedding the
loss falls as N^-0.076 and depends on the aspect ratio hidden_size / num_hidden_layers only weakly;
their Fig. 5 has (6 layers, 4288 wide) within 3 % of (48 layers, 1600 wide). Our own assumptions turn
these two points into a penalty for any shape: that the second is the best aspect ratio (published
encoders stand near it: ModernBERT 35 and 37, NeoBERT 27), and that the loss rises as a parabola in the
logarithm of the ratio, alike on both sides. The power law then gives the parameters that would make up
for it:

    penalty             = 0.03 * (ln(aspect / 33.3) / ln(714.7 / 33.3))^2
    effective parameters = N * (1 + penalty)^(-1 / 0.076)

The penalty is small: 0.003 % of loss for ModernBERT-large, 0.4 % for 12 layers of 1280. Within a
parameter budget the prior is mostly the parameters outside the embedding, and does little against
shallow shapes; a floor on depth does.

What it rests on: decoder language models and their training loss. What it leaves out: head size,
feed-forward ratio and attention pattern (so bound them in the space, to what is known to be equal),
and fine-tuning, which Tay et al. 2021 (arXiv 2109.10686) find to favour depth more than the loss
does: give depth a weight or a floor of its own. Levine et al. 2020 (arXiv 2006.12467) put the depth
below which width no longer helps at about log3(hidden_size), 6 to 7 layers here: far below any
shape that these spaces hold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsearch.shape.parameters import body_parameters
from hwsearch.shape.table import ShapeTable

PARAMETER_EXPONENT = 0.076
BEST_ASPECT = 1600 / 48
WIDE_ASPECT = 4288 / 6
WIDE_ASPECT_LOSS = 0.03


def aspect_loss_penalty(shapes: ShapeTable) -> NDArray[np.float64]:
    """Relative increase of the loss by the aspect ratio alone, [N]; 0.01 means 1 %."""
    aspect = shapes.hidden_size / shapes.num_hidden_layers
    distance = np.log(aspect / BEST_ASPECT) / np.log(WIDE_ASPECT / BEST_ASPECT)
    return np.asarray(WIDE_ASPECT_LOSS * distance**2)


def effective_parameters(shapes: ShapeTable) -> NDArray[np.float64]:
    """Parameters outside the embedding, less what the aspect ratio costs, [N]."""
    discount = (1 + aspect_loss_penalty(shapes)) ** (-1 / PARAMETER_EXPONENT)
    return np.asarray(body_parameters(shapes) * discount)
