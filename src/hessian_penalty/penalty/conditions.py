"""What goes to the generator beside the latents: labels, levels of detail, masks."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Conditions(Mapping[str, Any]):
    """Keyword arguments of G: those that belong to the samples of a batch, and the others. A mapping of both.

    >>> import torch
    >>> Conditions.for_batch({"labels": torch.tensor([3, 7]), "lod": 2.0}, batch=2).repeat(2)
    {'lod': 2.0, 'labels': tensor([3, 7, 3, 7])}
    """

    of_samples: Mapping[str, Tensor]
    others: Mapping[str, Any]

    @classmethod
    def for_batch(cls, values: Mapping[str, Any], batch: int) -> "Conditions":
        """Sort arguments: a tensor whose first dimension is the batch belongs to the samples.

        Anything else, a nested container included, goes to G as it is. What is sorted already stays so.
        """
        if isinstance(values, Conditions):
            return values
        of_samples = {
            name: value
            for name, value in values.items()
            if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch
        }
        return cls(of_samples, {name: value for name, value in values.items() if name not in of_samples})

    def __getitem__(self, name: str) -> Any:
        return self.of_samples[name] if name in self.of_samples else self.others[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.others
        yield from self.of_samples

    def __len__(self) -> int:
        return len(self.others) + len(self.of_samples)

    def repeat(self, copies: int) -> dict[str, Any]:
        """Return the arguments for `copies` batches, one after the other."""
        copied = {name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in self.of_samples.items()}
        return {**self.others, **copied}

    def select(self, rows: Tensor) -> "Conditions":
        """Return the conditions of the samples `rows`."""
        chosen = {name: value[rows.to(value.device)] for name, value in self.of_samples.items()}
        return Conditions(chosen, self.others)


def check_conditions(G: Callable[..., Any], names: Mapping[str, Any]) -> None:
    """Refuse by name what G does not take.

    Raises:
        TypeError: G's signature is known, has no `**kwargs`, and lacks one of the names (its first parameter is z).
    """
    if not names:
        return
    try:
        signature = inspect.signature(G.forward if isinstance(G, nn.Module) else G)
    except (ValueError, TypeError):  # built-in callables do not always tell
        return
    parameters = list(signature.parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    accepted = [parameter.name for parameter in parameters[1:] if parameter.kind in by_name]
    unknown = [name for name in names if name not in accepted]
    if unknown:
        takes = ", ".join(f"`{name}`" for name in accepted) or "no argument beside the latents"
        raise TypeError(
            f"{', '.join(f'`{name}`' for name in unknown)} is neither an option here nor an argument of G, which takes "
            f"{takes}; check the spelling or leave it out."
        )
