import pytest
import torch

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.hessian import HessianSearch
from hessian_penalty.directions.rotated_generator import RotatedGenerator
from hessian_penalty.directions.voynov import VoynovSearch
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.generators.loading import load_generator, load_module, read_tensors
from hessian_penalty.runs import RunFolder, read_json
from hessian_penalty.studies import rotation
from hessian_penalty.studies.rotation import rotate_into, rotate_run
from hessian_penalty.training.session import resume_run, start_run

QUICK = HessianSearch(sketches=32, held_out=16, rounds=1)


@pytest.fixture(scope="module")
def rotated(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("rotated") / "run"
    rotate_run(small_run, out, method=QUICK)
    return RunFolder.open(out)


@pytest.mark.parametrize("weights", ["ema", "generator"])
def test_rotated_latents_make_the_same_images(small_run, rotated, weights):
    before, after = load_generator(small_run, weights), load_generator(rotated, weights)
    matrix = Directions.load(rotated.path / "directions.safetensors").matrix
    w = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    assert float((after(w) - before(w @ matrix)).abs().max()) < 1e-4
    assert float((after(w) - before(w)).abs().max()) > 1e-2


def test_the_matrix_is_a_rotation_sorted_by_activeness(rotated):
    found = Directions.load(rotated.path / "directions.safetensors")
    assert torch.allclose(found.matrix @ found.matrix.T, torch.eye(4), atol=1e-5)
    assert found.activeness.tolist() == sorted(found.activeness.tolist(), reverse=True)
    assert (rotated.path / "directions.csv").exists()


def test_provenance_says_where_the_run_came_from(small_run, rotated):
    provenance = read_json(rotated.config_path)["provenance"]
    assert provenance["rotated"]["run"] == small_run.path.name
    assert provenance["rotated"]["settings"]["sketches"] == 32
    assert provenance["data"] == read_json(small_run.config_path)["provenance"]["data"]


def test_optimizer_moments_turn_with_the_weights(small_run, rotated):
    """Adam's first moment is a gradient: it turns as the weight does. The second stays positive, its sum kept."""
    matrix = Directions.load(rotated.path / "directions.safetensors").matrix
    before, after = (
        read_tensors(run.latest_checkpoint() / "generator_optimizer.safetensors") for run in (small_run, rotated)
    )
    assert torch.allclose(after["0.exp_avg"], before["0.exp_avg"] @ matrix.T, atol=1e-7)
    assert float(after["0.exp_avg_sq"].min()) >= 0
    assert torch.allclose(after["0.exp_avg_sq"].sum(1), before["0.exp_avg_sq"].sum(1), rtol=1e-4)
    others = [name for name in before if not name.startswith("0.")]
    assert all(torch.equal(before[name], after[name]) for name in others)


def test_index_0_is_the_first_linear_layer(small_run):
    assert next(iter(load_generator(small_run).named_parameters()))[0] == "blocks.0.dense.weight"


def test_training_takes_the_rotated_run(rotated, small_config, small_dataset, tmp_path):
    trainer = start_run(small_config, small_dataset, tmp_path / "tuned", finetune=rotated, accelerator="cpu")
    assert torch.equal(trainer.state.networks["ema"].first_linear.weight, load_generator(rotated).first_linear.weight)
    trainer.train()
    provenance = read_json(trainer.run.config_path)["provenance"]
    assert provenance["finetuned_from"] == rotated.path.name
    assert provenance["finetuned_from_kimg"] == pytest.approx(0.128)


def test_resuming_the_rotated_run_goes_on_from_it(rotated):
    trainer = resume_run(rotated, accelerator="cpu")
    assert trainer.kimg == pytest.approx(0.128)


def test_a_run_stopped_in_its_first_step_can_be_rotated(small_config, small_dataset, tmp_path):
    trainer = start_run(small_config, small_dataset, tmp_path / "run", accelerator="cpu")
    trainer.save()
    rotate_run(trainer.run, tmp_path / "rotated", method=QUICK)
    assert RunFolder.open(tmp_path / "rotated").checkpoints()


def test_an_existing_folder_is_not_overwritten(small_run, rotated):
    with pytest.raises(UserError, match="exists already. Choose another --out"):
        rotate_run(small_run, rotated.path)


def test_nothing_is_left_after_a_failure(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(Directions, "save", lambda self, path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        rotate_run(small_run, tmp_path / "out", method=QUICK)
    assert list(tmp_path.iterdir()) == []


def some_rotation(n=4, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed)))[0]


def dense(latents=4, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(latents, 12), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 2, 2)))


KEEP = 2


@pytest.fixture(scope="module")
def reduced(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("reduced") / "run"
    directions, change = rotate_run(small_run, out, directions=Directions(some_rotation()), keep=KEEP, seed=3)
    return RunFolder.open(out), directions, change


class TestFewerLatents:
    def test_the_run_says_so_and_leaves_optimisers_out(self, small_run, reduced):
        run, directions, change = reduced
        assert len(directions) == 4  # all of them are kept on record
        assert torch.equal(Directions.load(run.path / "directions.safetensors").matrix, directions.matrix)
        config = run.config()
        assert config["generator"]["latent_dim"] == KEEP
        told = config["provenance"]["reduced"]
        assert told == {
            "keep": KEEP, "mean": change.mean, "worst": change.worst, "relative": change.relative,
        }  # fmt: skip
        names = {path.name for path in small_run.latest_checkpoint().iterdir()}
        kept = {path.name for path in run.latest_checkpoint().iterdir()}
        assert names - kept == {"generator_optimizer.safetensors", "critic_optimizer.safetensors"}
        assert kept <= names

    @pytest.mark.parametrize("weights", ["ema", "generator"])
    def test_images_are_those_of_the_latents_that_are_kept(self, small_run, reduced, weights):
        run, directions, _ = reduced
        before, after = load_generator(small_run, weights), load_generator(run, weights)
        before.normalize_latent = after.normalize_latent = False  # both divide by the norm; see `drop_latents`
        w = torch.randn(16, KEEP, generator=torch.Generator().manual_seed(0))
        assert float((after(w) - before(w @ directions.matrix[:KEEP])).abs().max()) < 1e-4

    def test_the_change_is_that_of_the_moving_average(self, small_run, reduced):
        """Measured anew, with other latents: root mean square of a difference, to four standard errors of 256."""
        run, directions, change = reduced
        before, after = load_generator(small_run), load_generator(run)
        z = torch.randn(4096, 4, generator=torch.Generator().manual_seed(1))
        kept = directions.matrix[:KEEP]
        with torch.no_grad():
            moved = (after(z @ kept.T) - before(z)).flatten(1).square().mean(dim=1).sqrt()
        assert abs(change.mean - float(moved.mean())) < 4 * float(moved.std()) / 16
        assert change.mean < change.worst

    def test_what_cannot_be_a_run_is_refused(self, small_run, tmp_path, monkeypatch):
        def wrapped(G, directions, keep, **options):
            return RotatedGenerator(G, directions.matrix[:keep]), None

        monkeypatch.setattr(rotation, "drop_latents", wrapped)
        with pytest.raises(UserError, match=f"The generator of {small_run.path} cannot take its latents along these"):
            rotate_run(small_run, tmp_path / "out", directions=Directions(some_rotation()), keep=2)
        assert list(tmp_path.iterdir()) == []

    def test_a_number_out_of_range_leaves_nothing(self, small_run, tmp_path):
        with pytest.raises(UserError, match=r"`keep` must lie in \[1, 4\], the number of latents, got 5"):
            rotate_run(small_run, tmp_path / "out", directions=Directions(some_rotation()), keep=5)
        assert list(tmp_path.iterdir()) == []


def test_a_method_that_finds_no_rotation_is_refused_before_it_searches(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(rotation, "discover", lambda *a, **k: pytest.fail("searched"))
    with pytest.raises(UserError, match="Method 'voynov' finds directions that are not orthogonal.*; choose another"):
        rotate_run(small_run, tmp_path / "out", method=VoynovSearch(orthonormal=False))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_not_searched_for(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(rotation, "discover", lambda *a, **k: pytest.fail("searched"))
    with pytest.raises(UserError, match="exists already"):
        rotate_run(small_run, tmp_path)
    with pytest.raises(UserError, match="`keep` must lie in"):
        rotate_run(small_run, tmp_path / "out", keep=5)


def test_given_directions_keep_their_provenance(small_run, tmp_path):
    """Their seed is that of their search, and the caller's object stays as it is."""
    given = Directions(some_rotation(), provenance={"method": "random", "seed": 7})
    found, _ = rotate_run(small_run, tmp_path / "out", directions=given)
    assert given.provenance == {"method": "random", "seed": 7}
    assert found.provenance["seed"] == 7
    assert found.provenance["run"] == small_run.path.name
    assert Directions.load(tmp_path / "out" / "directions.safetensors").provenance == found.provenance


def test_fewer_directions_than_latents_need_keep(small_run, tmp_path):
    three = Directions(some_rotation()[:3])
    with pytest.raises(UserError, match=r"as many directions as latents \(4\), got 3"):
        rotate_run(small_run, tmp_path / "out", directions=three)
    rotate_run(small_run, tmp_path / "out", directions=three, keep=3)
    assert load_generator(RunFolder.open(tmp_path / "out")).latent_dim == 3


class TestAnyGenerator:
    def test_a_module_is_folded(self, tmp_path):
        G, D = FunctionGenerator(dense(), 4), Directions(some_rotation())
        assert rotate_into(tmp_path / "out", G, D) == (True, None)
        turned = dense(seed=1)
        load_module(turned, tmp_path / "out" / "generator.safetensors")
        w = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(turned(w), G(w @ D.matrix), atol=1e-5)
        assert torch.equal(turned[0].bias, G.function[0].bias)
        assert torch.equal(Directions.load(tmp_path / "out" / "directions.safetensors").matrix, D.matrix)
        assert (tmp_path / "out" / "directions.csv").exists()

    def test_with_fewer_latents(self, tmp_path):
        G, D = FunctionGenerator(dense(), 4), Directions(some_rotation())
        folded, change = rotate_into(tmp_path / "out", G, D, keep=3)
        assert folded
        assert 0 < change.mean < change.worst
        turned = dense(3)
        load_module(turned, tmp_path / "out" / "generator.safetensors")
        w = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(turned(w), G(w @ D.matrix[:3]), atol=1e-5)

    def test_a_latent_that_does_nothing_costs_nothing_to_drop(self, tmp_path):
        module, matrix = dense(), some_rotation()
        with torch.no_grad():
            module[0].weight -= module[0].weight @ torch.outer(matrix[3], matrix[3])
        _, change = rotate_into(tmp_path / "out", FunctionGenerator(module, 4), Directions(matrix), keep=3)
        assert change.worst < 1e-5

    @pytest.mark.parametrize("keep", [None, 2])
    def test_a_function_gets_directions_alone(self, tmp_path, keep):
        G = FunctionGenerator(lambda z: (z[:, :1] * z)[:, :, None, None], 4)
        folded, change = rotate_into(tmp_path / "out", G, Directions(some_rotation()), keep=keep)
        assert not folded
        assert (change is None) == (keep is None)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "directions.csv",
            "directions.safetensors",
        ]

    def test_an_existing_folder_is_not_overwritten(self, tmp_path):
        with pytest.raises(UserError, match="exists already. Choose another --out, or move it away"):
            rotate_into(tmp_path, FunctionGenerator(dense(), 4), Directions(some_rotation()))

    @pytest.mark.parametrize("rows", [3, 5])
    def test_directions_that_do_not_fit_leave_nothing(self, tmp_path, rows):
        D = Directions(some_rotation()[:3] if rows == 3 else some_rotation(5))
        with pytest.raises(UserError, match="as many directions as latents|must have 4 components"):
            rotate_into(tmp_path / "out", FunctionGenerator(dense(), 4), D)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_left_after_a_failure(self, tmp_path, monkeypatch):
        monkeypatch.setattr(rotation, "save_module", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            rotate_into(tmp_path / "out", FunctionGenerator(dense(), 4), Directions(some_rotation()))
        assert list(tmp_path.iterdir()) == []
