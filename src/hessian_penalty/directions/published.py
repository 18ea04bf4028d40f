"""Published direction matrices of BigGAN-128: the `.pt` files that other projects hand out."""

import hashlib
import re
import warnings
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.directions.directions import Directions
from hessian_penalty.errors import UserError

THIRDS = ("coarse", "mid", "fine")  # of BigGAN's hierarchical z, from the first layers to the last


def read_published(path: str | Path, latent_dim: int = 120, subspace: str | slice | None = None) -> Directions:
    r"""Read a matrix whose rows are directions before orthogonalisation, as published with the paper.

    The directions are the rows after Gram-Schmidt in row order,
    :math:`d_i \propto a_i - \sum_{j<i} \langle a_i, d_j \rangle d_j`: number i of the file stays number i, with its
    sign, since people cite "direction 5". `activeness` is not measured.

    The published files hold one bare float32 matrix each, 120 × 120 (all of z) or 40 × 40 (one third of z, the rest of
    each direction is zero). A square matrix does not show whether its rows or its columns are directions: in these
    files rows are (that of Voynov's method, whose own layout is columns, is stored as a transposed view).

    Args:
        path: file of `torch.save`, read with `weights_only=True` only.
        latent_dim: number of latent components n.
        subspace: which components a matrix with fewer than n columns stands for: "coarse", "mid" or "fine" (thirds of
            z, 0:40, 40:80 and 80:120 for BigGAN-128), or a slice; None takes the word from the file's name.

    Returns:
        Directions with orthonormal rows (count, n), float32.

    Raises:
        UserError: the file is missing, damaged or needs unpickling; it holds no matrix, or one of another size; its
            rows are linearly dependent; the components are not known.

    Source: Peebles et al., "The Hessian Penalty", ECCV 2020, §5 (BigGAN directions).

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mine_coarse.pt"
    >>> torch.save(torch.tensor([[2.0, 0.0], [5.0, -1.0]]), path)
    >>> read_published(path, latent_dim=3, subspace=slice(1, 3)).matrix
    tensor([[ 0.,  1.,  0.],
            [ 0.,  0., -1.]])
    """
    path = Path(path)
    matrix = _read_matrix(path)
    rows, columns = matrix.shape
    components = _components(path, columns, latent_dim, subspace)
    if rows > columns:
        raise UserError(
            f"{path} must have directions as rows, no more of them than the {columns} components of each, got {rows} × "
            f"{columns}; transpose it if its columns are the directions."
        )
    padded = torch.zeros(rows, latent_dim)
    padded[:, components.start : components.stop] = gram_schmidt(matrix, str(path)).float()
    provenance = {
        "method": "published",
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "components": [components.start, components.stop],
    }
    return Directions(padded, provenance=provenance)


def gram_schmidt(matrix: Float[Tensor, "rows columns"], name: str = "`matrix`") -> Float[Tensor, "rows columns"]:
    r"""Orthonormal rows by Gram-Schmidt in row order, float64: by QR of the transpose, R's diagonal made positive.

    Raises:
        UserError: a row is a combination of the rows before it.

    >>> gram_schmidt(torch.tensor([[0.0, -3.0], [1.0, 7.0]]))
    tensor([[ 0., -1.],
            [ 1.,  0.]], dtype=torch.float64)
    """
    rows = matrix.double()
    basis, triangle = torch.linalg.qr(rows.T)
    left = triangle.diagonal().abs() / rows.norm(dim=1)  # what of each row the rows before it leave; NaN for a zero row
    dependent = [index for index, share in enumerate(left.tolist()) if not share > 1e-6]
    if dependent:
        raise UserError(
            f"{name} must have linearly independent rows; row {dependent[0]} is zero or a combination of those before "
            "it. Leave such rows out."
        )
    orthonormal: Tensor = (basis * triangle.diagonal().sign()).T.contiguous() + 0.0  # no negative zeros
    return orthonormal


def _read_matrix(path: Path) -> Float[Tensor, "rows columns"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript archives, refused below
            value = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    except UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, and is not unpickled, since a pickle runs code. "
            "Save the matrix alone: torch.save(matrix, path)."
        ) from error
    except Exception as error:  # a damaged archive raises what its reader happens to
        raise UserError(
            f"{path} cannot be read as a matrix ({type(error).__name__}). Expected what torch.save(matrix, path) wrote."
        ) from error
    if not isinstance(value, Tensor) or value.ndim != 2 or not value.is_floating_point() or not value.numel():
        if isinstance(value, Tensor):
            came = f"{value.dtype} of shape {tuple(value.shape)}"
        else:
            keys = f" with {', '.join(map(str, list(value)[:5]))}" if isinstance(value, dict) else ""
            came = type(value).__name__ + keys
        raise UserError(
            f"{path} must hold one matrix of floating point numbers, got {came}; save the matrix alone: "
            "torch.save(matrix, path)."
        )
    if not bool(torch.isfinite(value).all()):
        raise UserError(f"{path} must hold finite numbers, got NaN or infinity; take another copy of the file.")
    return value.detach()


def _components(path: Path, columns: int, latent_dim: int, subspace: str | slice | None) -> slice:
    """Return which latent components the columns stand for."""
    if subspace is None and columns == latent_dim:
        return slice(0, latent_dim)
    if subspace is None:
        words = [word for word in re.split("[^a-z]+", path.stem.lower()) if word in THIRDS]
        if 3 * columns != latent_dim or len(words) != 1:
            raise UserError(
                f"{path} has {columns} columns for {latent_dim} latent components; say which with `subspace`: "
                f"{', '.join(THIRDS)} (a third each), or a slice."
            )
        subspace = words[0]
    if isinstance(subspace, str):
        if subspace not in THIRDS:
            raise UserError(f"`subspace` {subspace!r} is unknown; give {', '.join(THIRDS)}, or a slice.")
        third = THIRDS.index(subspace)
        subspace = slice(third * latent_dim // 3, (third + 1) * latent_dim // 3)
    start, stop, step = subspace.indices(latent_dim)
    if step != 1 or stop - start != columns:
        raise UserError(
            f"{path} has {columns} columns, but `subspace` names {len(range(start, stop, step))} of {latent_dim} "
            f"components, in steps of {step}; give a slice of {columns} in steps of 1."
        )
    return slice(start, stop)
