"""The arms of a study: how each of the models that are compared is made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hessian_penalty.errors import UserError
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.presets import Method, Preset

FINETUNE_SEED = 1000  # added to a run's seed where it is trained on, so that it does not see the same draws again


@dataclass(frozen=True)
class Arm:
    """One model.

    Args:
        name: of its folder and in tables.
        description: one sentence: how it is made.
        method: by which it is trained; None: its start is turned onto its directions instead.
        start: arm whose networks it starts from.
        compared: whether it is measured; the others are steps on the way.
    """

    name: str
    description: str
    method: Method | None
    start: str | None = None
    compared: bool = True


ARMS = {
    arm.name: arm
    for arm in (
        Arm("start", "The vanilla model before the last part of its training.", "vanilla", compared=False),
        Arm("vanilla", "An ordinary generator, trained without any penalty.", "vanilla", start="start"),
        Arm("infogan", "InfoGAN: a head of the critic infers as many latents as there are factors.", "infogan"),
        Arm("orojar", "Orthogonal Jacobian Regularization from scratch.", "orojar"),
        Arm("published", "The Hessian Penalty from scratch with the paper's weight and maximum.", "published"),
        Arm("hessian", "The Hessian Penalty from scratch, with this package's settings.", "hessian"),
        Arm("finetuned", "The start trained on with the Hessian Penalty.", "hessian", start="start"),
        Arm("rotated", "The vanilla model turned onto its directions: no training.", None, start="vanilla"),
        Arm("start-rotated", "The start turned onto its directions.", None, start="start", compared=False),
        Arm(
            "rotated-finetuned",
            "The start turned onto its directions, then trained on with the Hessian Penalty.",
            "hessian",
            start="start-rotated",
        ),
    )
}
DEFAULT_ARMS = ("vanilla", "infogan", "orojar", "hessian", "finetuned", "rotated", "rotated-finetuned")


def with_starts(names: Sequence[str]) -> list[Arm]:
    """The named arms and those that they start from, each after its own start.

    >>> [arm.name for arm in with_starts(["rotated", "infogan"])]
    ['start', 'vanilla', 'rotated', 'infogan']

    Raises:
        UserError: no name, an unknown one, or one given twice.
    """
    known = [name for name, arm in ARMS.items() if arm.compared]
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        got = ", ".join(unknown or names) or "none"
        raise UserError(f"--arms takes one or more of {', '.join(known)}, each once; got {got}.")
    found: dict[str, Arm] = {}
    for name in names:
        line = [ARMS[name]]
        while line[-1].start is not None:
            line.append(ARMS[line[-1].start])
        found |= {arm.name: arm for arm in reversed(line) if arm.name not in found}
    return list(found.values())


def training_of(arm: Arm, preset: Preset, seed: int, total_kimg: float, finetune_kimg: float) -> TrainingConfig:
    """The settings of a trained arm: all arms see `total_kimg`, of which the last `finetune_kimg` after the start."""
    if arm.method is None:
        raise ValueError(f"Arm {arm.name!r} is not trained.")
    config = preset.training(arm.method, finetune=arm.start is not None)
    if arm.start is not None:
        return replace(config, total_kimg=finetune_kimg, seed=seed + FINETUNE_SEED)
    return replace(config, total_kimg=total_kimg if arm.compared else total_kimg - finetune_kimg, seed=seed)
