from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from pydantic import ValidationError

from ampflow.dataset import Dataset
from ampflow.errors import OptionError
from ampflow.experiment import Experiment, Training
from ampflow.fingerprints import GMP
from ampflow.images import Frame, Image
from ampflow.potential.amptorch import compat
from ampflow.potential.amptorch.config import Name, make_config
from ampflow.potential.amptorch.export import amptorch_descriptor, export
from ampflow.potential.model import Potential
from ampflow.potential.schedules import learning_rate
from ampflow.potential.training import Epoch, train

Make = Callable[..., Dataset]
OPTIONS = Training(
    backend="amptorch", num_layers=2, num_nodes=6, epochs=8, batch_size=7, lr=0.02, step_size=3
)


@pytest.fixture
def amptorch() -> None:
    try:
        compat.require_amptorch()
    except OptionError as error:
        pytest.skip(error.what)


# What AMPTorch lacks is refused by its name, fixed or searched, whoever else may train.
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", "per-element"),
        ("loss", "huber"),
        ("optimizer", "lbfgs"),
        ("batch_unit", "atoms"),
        ("force_weight", 1.0),
        ("stress_weight", 1.0),
        ("clip", 1.0),
        ("ema_decay", 0.9),
        ("device", "cuda"),
    ],
)
def test_refusals(name: str, value: object) -> None:
    said = f"{name} = {value!r}"
    with pytest.raises(ValidationError) as refused:
        Training.model_validate({"backend": "amptorch", name: value})
    assert said in str(refused.value)
    with pytest.raises(ValidationError) as refused:
        Experiment.model_validate(
            {
                "training": {"backend": "amptorch"},
                "tuning": {"space": {name: {"choices": [value]}}},
            }
        )
    assert said in str(refused.value)
    with pytest.raises(ValidationError) as refused:
        Experiment.model_validate(
            {
                "training": {name: value},
                "tuning": {"space": {"backend": {"choices": ["ampflow", "amptorch"]}}},
            }
        )
    assert said in str(refused.value)


# The configuration has our options in AMPTorch's words, and loses no structure of validation.
@pytest.mark.parametrize("sizes", [(1, 3), (30, 300), (29, 97), (7, 100_003)])
def test_configuration(sizes: tuple[int, int]) -> None:
    options = OPTIONS.model_copy(update={"optimizer": "adamw", "dropout_rate": 0.1})
    config = make_config(options, 3, ["a.lmdb", "b.lmdb"], sizes, "/x")
    assert config["model"]["activation"] == Name("torch.nn.SiLU")
    assert repr(config["model"]["activation"]) == "torch.nn.SiLU"
    assert (config["model"]["num_layers"], config["model"]["num_nodes"]) == (2, 6)
    assert config["model"]["dropout"]
    assert config["optim"]["optimizer_args"] == {"optimizer__weight_decay": 0.01}
    assert config["optim"]["scheduler"] == {
        "policy": "StepLR",
        "params": {"step_size": 3, "gamma": 0.7},
    }
    assert config["cmd"]["seed"] == 3
    assert int(sizes[1] * config["dataset"]["val_split"]) == sizes[0]  # as AMPTorch counts


# Where AMPTorch is not installed, training says what is missing before it does anything.
def test_not_installed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "_NEEDED", ("amptorch_that_nobody_has",))
    with pytest.raises(OptionError, match="amptorch_that_nobody_has"):
        train(make(20), make(5, seed=1), OPTIONS, seed=0)


# Its defects are said once a process, whoever asks.
def test_defects_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    compat.warn_of_defects.cache_clear()
    for _ in range(2):
        compat.warn_of_defects()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cell face" in caplog.text


# ampflow imports none of it by itself: the licence is AMPTorch's own affair.
def test_not_imported() -> None:
    code = (
        "import sys, ampflow.potential.amptorch.training, ampflow.tuning.objective\n"
        "assert not {'amptorch', 'skorch', 'torch_geometric', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# AMPTorch learns; its weights in our network predict what it scored; a finished training is
# restored, to the last bit, without a new one.
@pytest.mark.usefixtures("amptorch")
def test_trains(make: Make, tmp_path: Path) -> None:
    data, validation = make(40, seed=1), make(12, seed=2)
    seen: list[Epoch] = []
    file = tmp_path / "checkpoint.safetensors"
    trained = train(data, validation, OPTIONS, 0, on_epoch=seen.append, checkpoint=file)
    maes = [epoch.validation_mae for epoch in seen]
    assert trained.history == seen
    assert len(seen) == OPTIONS.epochs
    assert trained.validation_mae == min(maes) < 0.7 * maes[0]
    assert [e.lr for e in seen] == pytest.approx(
        [learning_rate(OPTIONS, maes[:n]) for n in range(8)]
    )
    error = np.abs(trained.fit.predict(validation) - validation.energies).mean()
    assert error == pytest.approx(trained.validation_mae, rel=1e-5)
    again = train(data, validation, OPTIONS, 0, on_epoch=seen.append, checkpoint=file)
    assert len(seen) == OPTIONS.epochs
    np.testing.assert_array_equal(again.fit.weights, trained.fit.weights)


class Stop(BaseException):
    pass


# What `on_epoch` raises (a pruned trial) ends the training; patience ends it with the best epoch.
@pytest.mark.slow
@pytest.mark.usefixtures("amptorch")
def test_ends_early(make: Make) -> None:
    data, validation = make(40, seed=1), make(12, seed=2)
    seen: list[int] = []

    def stop(epoch: Epoch) -> None:
        seen.append(epoch.number)
        if epoch.number == 2:
            raise Stop

    with pytest.raises(Stop):
        train(data, validation, OPTIONS.model_copy(update={"epochs": 100_000}), 0, on_epoch=stop)
    assert seen == [1, 2]
    options = {"epochs": 100_000, "patience": 2, "lr": 1.0, "schedule": "plateau", "gamma": 1.0}
    patient = OPTIONS.model_copy(update=options)
    trained = train(data, validation, patient, 0)
    assert len(trained.history) == trained.best_epoch + 2


# Interrupted twice, also after the best epoch, a training continues: each epoch is told once, and
# errors, rates and weights are to the last bit those of one that nobody stopped.
@pytest.mark.slow
@pytest.mark.usefixtures("amptorch")
@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "plateau", "step_size": 1, "gamma": 0.5, "dropout_rate": 0.2, "lr": 0.1},
        {"schedule": "one-cycle", "optimizer": "adamw", "precision": "float32"},
    ],
)
def test_resumes(make: Make, tmp_path: Path, changes: dict[str, object]) -> None:
    data, validation = make(40, seed=1), make(12, seed=2)
    options = Training.model_validate({**OPTIONS.model_dump(), **changes})
    whole = train(data, validation, options, 0)
    maes = [epoch.validation_mae for epoch in whole.history]
    rates = [learning_rate(options, maes[:n]) for n in range(options.epochs)]
    assert [epoch.lr for epoch in whole.history] == pytest.approx(rates)
    seen: list[Epoch] = []

    def stop(epoch: Epoch) -> None:
        seen.append(epoch)
        if epoch.number in {3, whole.best_epoch}:
            raise Stop

    file = tmp_path / "checkpoint.safetensors"
    for _ in {3, whole.best_epoch} - {options.epochs}:
        with pytest.raises(Stop):
            train(data, validation, options, 0, on_epoch=stop, checkpoint=file)
    done = train(data, validation, options, 0, on_epoch=seen.append, checkpoint=file)
    assert [epoch.number for epoch in seen] == list(range(1, 9))
    for epoch, other in zip(done.history, whole.history, strict=True):
        assert replace(epoch, seconds=0) == replace(other, seconds=0)
    np.testing.assert_array_equal(done.fit.weights, whole.fit.weights)


# One whose process is killed continues from its last checkpoint; the child ends, and nothing stays.
@pytest.mark.slow
@pytest.mark.usefixtures("amptorch")
def test_killed(make: Make, tmp_path: Path) -> None:
    file, scratch = tmp_path / "checkpoint.safetensors", tmp_path / "scratch"
    scratch.mkdir()
    options = OPTIONS.model_copy(update={"checkpoint_epochs": 1, "epochs": 200})
    code = (
        "import sys; from pathlib import Path; from conftest import _make as make\n"
        "from ampflow.experiment import Training; from ampflow.potential.training import train\n"
        "options = Training.model_validate_json(sys.argv[1])\n"
        "train(make(40, seed=1), make(12, seed=2), options, 0, checkpoint=Path(sys.argv[2]),\n"
        "      on_epoch=lambda epoch: print(epoch.number, flush=True))\n"
    )
    command = [sys.executable, "-c", code, options.model_dump_json(), str(file)]
    environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(3)] == [b"1\n", b"2\n", b"3\n"]
            assert list(scratch.glob("ampflow-*"))
        finally:
            process.kill()
    deadline = time.monotonic() + 60
    while list(scratch.glob("ampflow-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(scratch.glob("ampflow-*"))

    seen: list[int] = []

    def stop(epoch: Epoch) -> None:
        seen.append(epoch.number)
        raise Stop

    with pytest.raises(Stop):
        train(make(40, seed=1), make(12, seed=2), options, 0, on_epoch=stop, checkpoint=file)
    assert seen[0] >= 3


# An exported folder's configuration trains there as it is, on the descriptor and the scaled
# fingerprints that the potential has.
@pytest.mark.slow
@pytest.mark.usefixtures("amptorch")
def test_export(tmp_path: Path) -> None:
    images: list[Image] = []
    for shift in np.linspace(0, 0.3, 20):
        atoms = Atoms("Cu4", [[0.1, 0, 0], [1.9, 1.8, shift], [1.8, 0.2, 1.8], [0.3, 1.8, 1.9]])
        atoms.set_cell([3.7] * 3)
        atoms.pbc = True
        frame = Frame.of(atoms)._replace(energy=float(shift))
        images.append(Image(frame, tmp_path, 0, ""))
    gmp = GMP([0.4, 1.1], [0, 1, 2], 4.0)
    prints = [gmp.compute(image.atoms) for image in images]
    data = Dataset(
        np.concatenate(prints),
        np.full(80, 29),
        np.arange(0, 81, 4),
        np.array([image.energy for image in images]),
    )
    options = Training(num_layers=1, num_nodes=4, epochs=2)
    potential = Potential(gmp.config([29]), train(data, data, options, 0).fit, options)
    export(potential, images, tmp_path / "out")
    code = (
        "import numpy as np, config\n"
        "from ampflow.potential.amptorch.compat import load_amptorch\n"
        "trainer = load_amptorch().AtomsTrainer(config.config)\n"
        "trainer.train()\n"
        "data = trainer.train_dataset\n"
        "assert len(data) == 20\n"
        "np.save('setup', data.descriptor.descriptor_setup)\n"
        "np.save('fingerprints', data[3].fingerprint.detach().numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path / "out")
    setup = np.load(tmp_path / "out" / "setup.npy")
    assert setup[:, 0].tolist() == [0, 0, 1, 1, 2, 2]  # orders
    assert setup[:, 3].tolist() == [0.4, 1.1] * 3  # widths
    written = np.load(tmp_path / "out" / "fingerprints.npy")
    np.testing.assert_allclose(written, potential.fit.scaler.features(prints[3]), atol=1e-5)


# What AMPTorch cannot describe is no export: a smooth cutoff.
def test_export_refuses_smooth_cutoffs(tmp_path: Path) -> None:
    config = GMP([0.4], [0], 4.0, switch_width=1.0).config([29])
    with pytest.raises(OptionError, match="switch_width"):
        amptorch_descriptor(config, tmp_path)
