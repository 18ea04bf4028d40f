"""What the demo ships: two small data sets and two vanilla models, and how they are packed.

`python -m hessian_penalty.studies.demo_assets NAME DATASET RUN` packs anew; scripts/make-demo-assets has the whole
way there, from rendering on.
"""

import sys
from pathlib import Path

from safetensors.torch import save_file

from hessian_penalty.data.atlas import pack_atlas, unpack_atlas
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.generators.loading import generator_config, read_tensors
from hessian_penalty.runs import RunFolder, atomic_path, read_json, write_json

ASSETS = Path(__file__).parent / "assets"
IMAGES = {"clevr-simple": 4000, "clevr-1fov": 500}  # shipped pictures
NETWORKS = ("generator", "ema", "critic")


def pack_run(run: RunFolder, folder: Path) -> None:
    """Write a run's newest networks in half precision, its config and counters; optimisers are left out."""
    checkpoint = run.latest_checkpoint()
    folder.mkdir(parents=True, exist_ok=True)
    for network in NETWORKS:
        tensors = read_tensors(checkpoint / f"{network}.safetensors")
        with atomic_path(folder / f"{network}.safetensors") as temporary:
            save_file({name: tensor.half() for name, tensor in tensors.items()}, temporary)
    config, provenance = run.config(), run.provenance()
    config["provenance"] = {key: provenance.get(key) for key in ("command", "preset")}
    write_json(folder / "config.json", config)
    write_json(folder / "state.json", {"kimg": run.state()["kimg"]})


def unpack_run(name: str, out: Path, dataset: ImageDataset) -> RunFolder:
    """The shipped vanilla run as a run folder, in single precision; one that is there already is kept."""
    if not out.exists():
        source = ASSETS / name
        config = read_json(source / "config.json")
        config["provenance"] |= {"data": str(dataset.path.resolve()), "data_sha256": dataset.sha256}
        state = read_json(source / "state.json")
        with atomic_path(out) as temporary:
            run = RunFolder(temporary)
            checkpoint = run.checkpoint_path(state["kimg"])
            checkpoint.mkdir(parents=True)
            for network in NETWORKS:
                tensors = read_tensors(source / f"{network}.safetensors")
                save_file({k: v.float() for k, v in tensors.items()}, checkpoint / f"{network}.safetensors")
            write_json(checkpoint / "state.json", state)
            write_json(run.config_path, config)
    return RunFolder.open(out)


def unpack_data(name: str, out: Path) -> ImageDataset:
    """The shipped pictures as a data set; one that is there already is kept."""
    return unpack_atlas(ASSETS / name, out)


def main(name: str, dataset: str, run: str) -> None:
    """Pack one data set and one run."""
    folder = RunFolder.open(run)
    pack_atlas(ImageDataset(dataset), ASSETS / name, count=IMAGES[name], resolution=generator_config(folder).resolution)
    pack_run(folder, ASSETS / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
