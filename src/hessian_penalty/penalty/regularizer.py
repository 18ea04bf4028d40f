"""A penalty as a term of a training loss: weighted, ramped, adaptive, every few steps."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.penalty.adaptive import AdaptiveWeight, gradient_norm
from hessian_penalty.penalty.arguments import check_number, check_whole
from hessian_penalty.penalty.compiler import outside_compiler
from hessian_penalty.penalty.estimator import estimate
from hessian_penalty.penalty.evaluation import Evaluator
from hessian_penalty.penalty.form import Form
from hessian_penalty.penalty.jacobian_products import JacobianProducts
from hessian_penalty.penalty.layer_weights import check_layer_weights, weighted
from hessian_penalty.penalty.recorded import Recorded, record
from hessian_penalty.penalty.second_differences import SecondDifferences
from hessian_penalty.penalty.settings import PenaltySettings


class Regularizer:
    r"""A weighted penalty for a training loop: `loss = main_loss + penalty(z, kimg=kimg, main_loss=main_loss)`.

    The loss is $\rho(t) \, \lambda \, L$ with a ramp $\rho$ that is 0 until `start_kimg`, grows linearly over
    `ramp_kimg` and stays at 1, and a weight $\lambda$ that is either `weight` or adaptive: such that the penalty's
    gradient has `adaptive` times the norm of the main loss's, over the parameters (bounds apply before the ramp). While
    the product is zero, G is not evaluated; with `interval` i it is on every i-th call, with i times the weight.

    Of several layers or outputs $L = \sum_l w_l L_l$, each reduced on its own. The weights $w_l$ are 1 unless a call
    gives others: for layers of a G that grows progressively, whose penalties fade in with their blocks. A G that is
    penalised by its images needs none, since these fade in themselves.

    A training step that evaluates G(z) anyway can let the penalty have it, which saves one of its 2k evaluations:

        images = penalty.generate(z)                    # G(z), remembered
        main_loss = adversarial_loss(critic(images))
        loss = main_loss + penalty(z, main_loss=main_loss)

    `HessianPenalty` and `OroJaR` are its two forms.

    Args:
        G: the generator.
        weight: $\lambda$; with `adaptive` the weight used as long as no gradient could be measured.
        start_kimg: thousands of images shown to the critic before the ramp begins.
        ramp_kimg: length of the ramp in thousands of images; 0 switches at once.
        interval: calls from one evaluation to the next; those between return 0 and cost nothing.
        adaptive: fraction of the main gradient's norm, 0.1 for instance; None keeps `weight`.
        adaptive_interval: evaluations between two measurements of the gradients.
        adaptive_smoothing: share of the past in the moving average of the logarithm of their ratio.
        min_weight: lower bound of the adaptive weight.
        max_weight: upper bound of the adaptive weight.
        parameters: over which gradients are measured; None takes those of the module G that require a gradient.
        k: this and all that follow as in `hessian_penalty`, reduction "none" excepted.

    Attributes:
        value: the last L, weights of layers included, detached; None where it was not evaluated.
        last_weight: the last weight, ramp and interval included; 0 where it was not evaluated.

    Raises:
        ValueError: for arguments out of range, and, when called, a missing `kimg` or `main_loss`, or weights of layers
            without `layers`.
        TypeError: arguments of another type; `adaptive` for a G that is no module, without `parameters`.
    """

    form: ClassVar[Form]

    def __init__(
        self,
        G: Callable[..., Any],
        *,
        weight: float = 0.1,
        start_kimg: float = 0.0,
        ramp_kimg: float = 0.0,
        interval: int = 1,
        adaptive: float | None = None,
        adaptive_interval: int = AdaptiveWeight.INTERVAL,
        adaptive_smoothing: float = AdaptiveWeight.SMOOTHING,
        min_weight: float = 0.0,
        max_weight: float = math.inf,
        parameters: Iterable[Tensor] | None = None,
        k: int = PenaltySettings.k,
        epsilon: float = PenaltySettings.epsilon,
        reduction: str | Callable[[Tensor], Tensor] = PenaltySettings.reduction,
        gradient: str = PenaltySettings.gradient,
        layers: str | Sequence[str] | None = PenaltySettings.layers,
        groups: str | Tensor | None = PenaltySettings.groups,
        chunk_size: int | None = PenaltySettings.chunk_size,
        scale_free: bool = PenaltySettings.scale_free,
        scale_epsilon: bool = PenaltySettings.scale_epsilon,
    ) -> None:
        self.settings = PenaltySettings(
            k, epsilon, reduction, gradient, layers, groups, chunk_size, scale_free, scale_epsilon
        )
        if reduction == "none":
            raise ValueError("`reduction='none'` gives no scalar loss; use 'max', 'mean' or a callable.")
        for name, number in (("weight", weight), ("start_kimg", start_kimg), ("ramp_kimg", ramp_kimg)):
            check_number(name, number)
            if not (math.isfinite(number) and number >= 0):
                raise ValueError(f"`{name}` must be a finite number, at least 0, got {number}.")
        check_whole("interval", interval)
        if interval < 1:
            raise ValueError(f"`interval` must be at least 1 call, got {interval}.")
        self.G = G
        self.weight = weight
        self.interval = interval
        self.start_kimg = start_kimg
        self.ramp_kimg = ramp_kimg
        self.parameters: list[Tensor] | None = None if parameters is None else list(parameters)
        self.adaptive: AdaptiveWeight | None = None
        if adaptive is not None:
            if self.parameters is None and not isinstance(G, nn.Module):
                raise TypeError(
                    "`adaptive` measures gradients over the parameters of G, so `G` must be a torch.nn.Module, got "
                    f"{type(G).__name__}; or pass `parameters`."
                )
            self.adaptive = AdaptiveWeight(
                adaptive,
                interval=adaptive_interval,
                smoothing=adaptive_smoothing,
                min_weight=min_weight,
                max_weight=max_weight,
                initial=weight,
            )
        self.value: Tensor | None = None
        self.last_weight: float = 0.0
        self._evaluate = Evaluator(G, layers)
        self._dense_only = False  # the sparse gradient was tried in vain
        self._calls = 0  # in which the weight was not zero
        self._recorded: Recorded | None = None

    @outside_compiler
    def generate(self, z: Float[Tensor, "batch *latent"], kimg: float | None = None, **conditions: Any) -> Any:
        """Return G(z, **conditions), and keep what the penalty needs of it for the call that follows.

        Call the penalty before any backward pass: both losses go back through this one pass together. The penalty uses
        it if it gets the same z and conditions, parameters and modes of modules are as they were (what was written
        through `.data`, or is a plain attribute, is not seen), and it ran in full precision. On a GPU that takes
        `torch.backends.cudnn.allow_tf32 = False`. Otherwise the penalty evaluates all its corners; the two differ in
        the centre of the probes only.

        Args:
            z: latents.
            kimg: as for the call, to which the pass is of use only if that evaluates G.
            conditions: further arguments of G.
        """
        self._recorded = None
        if self._ramp(kimg) == 0 or self._off or self._calls % self.interval:
            return self.G(z, **conditions)
        result, self._recorded = record(self._evaluate, self.G, z, conditions)
        return result

    @outside_compiler
    def __call__(
        self,
        z: Float[Tensor, "batch *latent"],
        kimg: float | None = None,
        main_loss: Tensor | None = None,
        rng: torch.Generator | None = None,
        layer_weights: Callable[[str], float] | None = None,
        **conditions: Any,
    ) -> Float[Tensor, ""]:
        """Return the weighted penalty at z, to be added to the main loss.

        Args:
            z: latents.
            kimg: thousands of images shown to the critic so far; needed with `start_kimg` or `ramp_kimg`.
            main_loss: the loss that the adaptive weight looks at, a scalar with a graph that reaches the parameters.
            rng: generator of the probes.
            layer_weights: $w_l$, at least 0, by the name of the module; asked for each layer that runs. One of weight 0
                is left out. None is 1 for all.
            conditions: further arguments of G.
        """
        ramp = self._ramp(kimg)
        check_layer_weights(self._evaluate.capture, layer_weights)
        recorded, self._recorded = self._recorded, None
        self.value, self.last_weight = None, 0.0
        if ramp == 0 or self._off:
            return z.new_zeros(())
        if torch.is_grad_enabled():  # a value for validation is no step
            self._calls += 1
            if (self._calls - 1) % self.interval:
                return z.new_zeros(())
        if recorded is not None and not recorded.fits(self._evaluate, z, conditions):
            recorded = None
        settings = replace(self.settings, gradient="dense") if self._dense_only else self.settings
        penalties, dense_only = estimate(
            self.form, self._evaluate, z, settings, rng=rng, conditions=conditions, recorded=recorded
        )
        self._dense_only = self._dense_only or dense_only
        if layer_weights is not None and self._evaluate.capture is not None:
            penalties = weighted(penalties, self._evaluate.capture.order, layer_weights)
        penalty = torch.stack(penalties).sum()
        weight = self.weight if self.adaptive is None else self._measure(self.adaptive, penalty, main_loss)
        self.value, self.last_weight = penalty.detach(), self.interval * ramp * weight
        return self.last_weight * penalty

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed training needs to go on exactly, as plain floats."""
        state = {"calls": float(self._calls), "dense_only": float(self._dense_only)}
        return state | ({} if self.adaptive is None else self.adaptive.state_dict())

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: an entry is missing or unknown, because the state is of a penalty with other arguments.
        """
        expected = self.state_dict().keys()
        if expected != state.keys():
            raise ValueError(
                f"`state` must hold {sorted(expected)}, got {sorted(state)}; create the penalty with the arguments it "
                "was saved with."
            )
        self._calls, self._dense_only = int(state["calls"]), bool(state["dense_only"])
        if self.adaptive is not None:
            self.adaptive.load_state_dict(state)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy gets: not a recorded pass, whose graph cannot be copied."""
        return self.__dict__ | {"_recorded": None}

    @property
    def _off(self) -> bool:
        return self.adaptive is None and self.weight == 0

    def _ramp(self, kimg: float | None) -> float:
        if self.start_kimg == 0 and self.ramp_kimg == 0:
            return 1.0
        if kimg is None:
            raise ValueError(
                f"`kimg` is needed, since the weight depends on it (start_kimg={self.start_kimg:g}, "
                f"ramp_kimg={self.ramp_kimg:g}); pass the thousands of images shown so far."
            )
        if self.ramp_kimg == 0:
            return float(kimg >= self.start_kimg)
        return min(max((kimg - self.start_kimg) / self.ramp_kimg, 0.0), 1.0)

    def _measure(self, adaptive: AdaptiveWeight, penalty: Tensor, main_loss: Tensor | None) -> float:
        if not torch.is_grad_enabled():
            return adaptive.value
        if main_loss is None or main_loss.ndim != 0 or not main_loss.requires_grad:
            got = "None" if main_loss is None else f"the shape {tuple(main_loss.shape)}"
            got += "" if main_loss is None or main_loss.requires_grad else " without a graph"
            raise ValueError(
                f"`main_loss` is needed for an adaptive weight, as a scalar with a graph, got {got}; pass the loss "
                "that the penalty is added to, before its backward pass."
            )
        if adaptive.due() and penalty.requires_grad:
            parameters = self.parameters
            if parameters is None:
                assert isinstance(self.G, nn.Module)  # checked by the constructor
                parameters = [parameter for parameter in self.G.parameters() if parameter.requires_grad]
            if not parameters:
                raise ValueError(
                    "`adaptive` measures gradients over parameters that require one, but `G` has none; unfreeze it, "
                    "pass `parameters`, or give a fixed `weight`."
                )
            group = self._evaluate.process_group
            adaptive.update(gradient_norm(main_loss, parameters, group), gradient_norm(penalty, parameters, group))
        return adaptive.value


class HessianPenalty(Regularizer):
    """The Hessian Penalty in a training loop: `hessian_penalty` weighed as `Regularizer` says.

    Source: Peebles et al., "The Hessian Penalty" (ECCV 2020), whose ProGAN models are trained with weight 0.1.

    >>> penalty = HessianPenalty(lambda z: z.prod(dim=1), weight=0.1, start_kimg=10.0, ramp_kimg=20.0)
    >>> penalty(torch.ones(4, 2), kimg=5.0), penalty.value
    (tensor(0.), None)
    >>> loss = penalty(torch.ones(4, 2), kimg=20.0)
    >>> penalty.last_weight
    0.05
    """

    form = SecondDifferences()


class OroJaR(Regularizer):
    """Orthogonal Jacobian Regularization in a training loop: `orojar` weighed as `Regularizer` says.

    Source: Wei et al., "Orthogonal Jacobian Regularization for Unsupervised Disentanglement" (ICCV 2021).

    >>> OroJaR(lambda z: z * z.flip(1), weight=1.0)(torch.ones(4, 2)) > 0
    tensor(True)
    """

    form = JacobianProducts()
