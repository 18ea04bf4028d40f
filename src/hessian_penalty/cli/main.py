"""`hessian-penalty`: pick the subcommand, run it, and turn a user's mistake into one clear message."""

import importlib
import importlib.metadata
import sys
import warnings
from collections.abc import Sequence

import torch
import tyro
from safetensors import SafetensorError

from hessian_penalty.errors import UserError, is_out_of_memory

# Subcommand → what it does. Each lives in the module of its name here, as a dataclass `Command` with `run()`.
COMMANDS = {
    "demo": "the main job in four to six minutes on two cores: train, rotate, fine-tune, and see it in one page",
    "render": "make a CLEVR-like data set with ground-truth factors",
    "import": "make a data set from your own pictures, or from edges2shoes, dSprites or 3D Shapes",
    "train": "train a ProGAN from a preset, or fine-tune or resume a run",
    "discover": "find interpretable directions in any frozen generator: pictures, videos, a page",
    "edit": "edit pictures along a direction",
    "rotate": "turn a generator's latents onto its directions, at no loss of quality",
    "prune": "take the latents that do nothing out of a run",
    "traverse": "film what each latent does",
    "evaluate": "measure runs by every measure of the field, side by side",
    "report": "put runs side by side in one self-contained page",
    "figures": "draw the figures of papers and talks as files, light and dark",
    "study": "train every method over several seeds, measure all, and write the table",
}

# What an optional part imports → the extra that installs it.
EXTRAS = {"lightning_fabric": "training", "tensorboard": "training", "mitsuba": "render", "torchmetrics": "features"}


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hessian-penalty COMMAND [options]",
            "",
            "Latents that mean something: the Hessian Penalty for any generator.",
            "",
            *lines,
            "",
            "`hessian-penalty COMMAND --help` explains a command's options, `hessian-penalty --version` the versions.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status: 0, 2 for a user's mistake, 130 for an interruption."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(f"hessian-penalty {importlib.metadata.version('hessian-penalty')}, PyTorch {torch.__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"hessian-penalty: unknown command {name!r}.\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"hessian_penalty.cli.{name}_command")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="lightning_fabric")
            if hasattr(module, "parse"):
                command = module.parse(rest)
            else:
                command = tyro.cli(module.Command, args=rest, prog=f"hessian-penalty {name}")
            command.run()
    except SystemExit as stop:  # tyro's own: help was shown, or the arguments did not parse
        return int(stop.code or 0)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in EXTRAS:
            raise
        extra = "demo" if name == "demo" else EXTRAS[error.name.split(".")[0]]
        print(f"hessian-penalty {name} needs {error.name}: pip install 'hessian-penalty[{extra}]'", file=sys.stderr)
        return 2
    except (UserError, OSError, SafetensorError) as error:
        print(f"hessian-penalty {name}: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and not is_out_of_memory(error):
            raise
        print(f"hessian-penalty {name}: out of memory ({error}). Use a smaller batch size.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nhessian-penalty {name}: interrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
