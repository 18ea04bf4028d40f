"""Mutual information between latents and ground-truth factors: what every score of the factor audit starts from."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import digamma
from scipy.stats import rankdata
from torch import Tensor

from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.errors import UserError

BINS = 20
BINS_IN_GROUP = 5  # a side: 25 cells of two factors, about as many as 20 bins of one
FEWEST_IMAGES = 100
NEIGHBOURS = 3

Latents = NDArray[np.floating] | Tensor


def latent_columns(latents: Latents, factors: Sequence[Factor]) -> Float[np.ndarray, "images latents"]:
    """Return the latents as a float64 array, refusing what no score can be computed from.

    Raises:
        UserError: latents that are not (images, n) with n at least 2, fewer than 100 images, no factors, a factor with
            another number of values or named twice, or a value that is not finite.
    """
    columns = np.asarray(latents.detach().cpu() if isinstance(latents, torch.Tensor) else latents, dtype=np.float64)
    if columns.ndim != 2 or columns.shape[1] < 2:
        raise UserError(
            f"`latents` must have the shape (images, n) with n at least 2, got {columns.shape}; the scores compare "
            "latents, and one alone has none to be compared with."
        )
    if len(columns) < FEWEST_IMAGES:
        raise UserError(f"`latents` must be those of at least {FEWEST_IMAGES} images, got {len(columns)}; draw more.")
    if not factors:
        raise UserError("`factors` must hold at least one factor, got none; use data with ground-truth factors.")
    names = [factor.name for factor in factors]
    if len(set(names)) < len(names):
        raise UserError(f"`factors` must have different names, got {', '.join(names)}; rename them.")
    for factor in factors:
        if len(factor.values) != len(columns):
            raise UserError(
                f"Factor {factor.name!r} must have one value for each of the {len(columns)} latents, got "
                f"{len(factor.values)}; give latents and factors of the same images."
            )
        if not np.isfinite(factor.values).all():
            raise UserError(f"Factor {factor.name!r} must hold finite numbers, got some that are not; leave them out.")
    if not np.isfinite(columns).all():
        raise UserError("`latents` must hold finite numbers, got some that are not; leave those images out.")
    return columns


def equal_mass_bins(values: NDArray[np.number], bins: int = BINS) -> Int[np.ndarray, " images"]:
    """Number the bins, 0 to at most `bins - 1`, of about as many values each.

    Equal values share a bin, so that ties leave fewer and less equal bins; a constant has one.

    >>> equal_mass_bins(np.array([0.3, 0.1, 7.0, 0.2]), bins=2)
    array([1, 0, 1, 0])
    >>> equal_mass_bins(np.array([5, 5, 5, 6]), bins=4)
    array([0, 0, 0, 1])
    """
    edges = np.unique(np.sort(values)[np.arange(1, bins) * len(values) // bins])
    return np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1]


def factor_cells(factors: Sequence[Factor]) -> Int[np.ndarray, " images"]:
    """Number the joint cells of a group of factors.

    Continuous factors and angles take 20 equal-mass bins, or 5 each where there are several; categorical factors keep
    their categories.
    """
    bins = BINS if len(factors) == 1 else BINS_IN_GROUP
    cells = np.zeros(len(factors[0].values), dtype=np.int64)
    for factor in factors:
        own = factor.values if factor.kind == "categorical" else equal_mass_bins(factor.values, bins)
        numbers = np.unique(own, return_inverse=True)[1]
        cells = np.unique(cells * (numbers.max() + 1) + numbers, return_inverse=True)[1]
    return cells


def entropy(cells: Int[np.ndarray, " images"]) -> float:
    """Plug-in entropy in nats: at most the logarithm of the number of cells, 0 for a constant.

    >>> round(entropy(np.array([0, 0, 1, 1])), 4)
    0.6931
    """
    counts = np.bincount(cells)
    shares = counts[counts > 0] / len(cells)
    return abs(float(shares @ np.log(shares)))


def mutual_information(a: Int[np.ndarray, " images"], b: Int[np.ndarray, " images"]) -> float:
    r"""Plug-in mutual information of two numberings of cells, in nats.

    $$I(a; b) = H(a) + H(b) - H(a, b) = \sum_{ij} p_{ij} \log \frac{p_{ij}}{p_i\,p_j} \in [0, \min(H(a), H(b))].$$

    Independent cells give about $(|a| - 1)(|b| - 1) / 2N$ rather than 0, for N images: $2NI$ then follows
    $\chi^2$ with that many degrees of freedom, twice over.

    >>> mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    0.0
    """
    return max(entropy(a) + entropy(b) - entropy(a * (b.max() + 1) + b), 0.0)


def mutual_information_map(latents: Latents, factors: Sequence[Factor]) -> Float[np.ndarray, "latents factors"]:
    """Mutual information in nats of every latent with every factor, 20 equal-mass bins of each.

    Raises:
        UserError: see `latent_columns`.
    """
    columns = latent_columns(latents, factors)
    bins = [equal_mass_bins(column) for column in columns.T]
    cells = [factor_cells([factor]) for factor in factors]
    return np.array([[mutual_information(a, b) for b in cells] for a in bins])


def joint_mutual_information(
    latents: Float[np.ndarray, "images few"], cells: Int[np.ndarray, " images"], *, seed: int = 0
) -> float:
    r"""Mutual information in nats of some latents together with the cells, by nearest neighbours.

    $$I = \psi(N) + \big\langle \psi(k_i) - \psi(N_i) - \psi(m_i) \big\rangle,$$

    where $N_i$ is the number of images in the cell of image i, $k_i = \min(3, N_i - 1)$, and $m_i$ the number of all
    images no farther from it than its $k_i$-th neighbour in the cell; distances are the largest difference of ranks.
    Images alone in their cells are left out. A histogram of two latents has hundreds of cells and a bias of half a
    nat; here it is about 0 for independent latents, whatever their number, and a few hundredths below the entropy
    where they determine the cell. In [0, H(cells)] by clipping. Source: Ross 2014, "Mutual information between
    discrete and continuous data sets".

    Args:
        latents: their ranks count, so that monotone maps of a latent change nothing.
        cells: numbers of the cells.
        seed: of the jitter, below one rank, which breaks ties.
    """
    sizes = np.bincount(cells)
    company = sizes[cells] > 1
    if not company.any():
        return 0.0
    latents, cells = latents[company], cells[company]
    points = rankdata(latents, axis=0) + np.random.default_rng(seed).random(latents.shape)
    radius, neighbours = np.empty(len(points)), np.minimum(NEIGHBOURS, sizes[cells] - 1)
    for cell in np.unique(cells):
        inside = cells == cell
        nearest = cKDTree(points[inside]).query(points[inside], k=[neighbours[inside][0] + 1], p=np.inf)[0]
        radius[inside] = np.nextafter(nearest[:, 0], 0)  # strictly inside: the image itself counts for the k-th
    within = cKDTree(points).query_ball_point(points, radius, p=np.inf, return_length=True)
    found = digamma(len(points)) + np.mean(digamma(neighbours) - digamma(sizes[cells]) - digamma(within))
    return float(np.clip(found, 0.0, entropy(cells)))


def grouped_columns(factors: Sequence[Factor], groups: Sequence[Sequence[str]]) -> list[list[int]]:
    """Positions of the factors in each group, in the order of the factors; one in no group is one by itself.

    >>> grouped_columns([Factor(name, "continuous", np.zeros(1)) for name in ("x", "hue", "y")], [("x", "y")])
    [[0, 2], [1]]

    Raises:
        UserError: a group names a factor that there is not, or one that is in a group already.
    """
    positions = {factor.name: column for column, factor in enumerate(factors)}
    members = [name for group in groups for name in group]
    for name in members:
        if name not in positions:
            raise UserError(f"`groups` must name factors among {', '.join(positions)}, got {name!r}; leave it out.")
        if members.count(name) > 1:
            raise UserError(f"`groups` must name a factor once, got {name!r} {members.count(name)} times.")
    alone = [[column] for name, column in positions.items() if name not in members]
    return sorted([*alone, *(sorted(positions[name] for name in group) for group in groups if group)])


def entitled_latents(factors: Sequence[Factor]) -> int:
    """How many latents a group may take without loss: one a factor, and two a circular one.

    No continuous function of a circle is one-to-one on a line, so that a circle takes two coordinates, as its cosine
    and sine.
    """
    return sum(2 if factor.kind == "circular" else 1 for factor in factors)
