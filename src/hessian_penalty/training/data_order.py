"""The order in which a run sees its images."""

import numpy as np
import numpy.typing as npt


def data_indices(first: int, count: int, length: int, seed: int) -> npt.NDArray[np.int64]:
    """Which images come as number `first` to `first + count - 1` of a run: each epoch its own permutation.

    A function of its arguments alone, so that a resumed run needs no stored position but `first`.

    >>> sorted(int(i) for i in data_indices(4, 4, 4, seed=0))
    [0, 1, 2, 3]
    """
    positions = np.arange(first, first + count)
    epochs = positions // length
    orders = {int(epoch): np.random.default_rng([seed, int(epoch)]).permutation(length) for epoch in np.unique(epochs)}
    return np.array([orders[int(epoch)][position % length] for epoch, position in zip(epochs, positions, strict=True)])
