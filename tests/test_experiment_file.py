from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ampflow.errors import OptionError, StorageError
from ampflow.experiment import (
    Choices,
    Experiment,
    Fingerprints,
    Range,
    Spaced,
    Training,
    Tuning,
)
from ampflow.experiment_file import load_experiment, make_experiment, render_experiment
from ampflow.fingerprinting import make_descriptor


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.toml"
    path.write_text(text)
    return path


def test_the_rendered_defaults_are_the_defaults(tmp_path: Path) -> None:
    # `ampflow init` cannot drift from the models: reading its file gives the models' defaults.
    experiment = load_experiment(write(tmp_path, render_experiment()))
    assert experiment.model_dump(exclude={"out"}) == Experiment().model_dump(exclude={"out"})


def test_rendering_keeps_every_option(tmp_path: Path) -> None:
    # What was chosen survives writing and reading.
    chosen = make_experiment(
        {"seed": 3, "out": "/o", "tuning": {"hours": 1.5, "space": {"lr": {"choices": [0.1]}}}},
        ["fingerprints.sigmas=[0.5, 1.5]", "data.files=['/a.traj']", "training.activation=silu"],
    )
    assert load_experiment(write(tmp_path, render_experiment(chosen))) == chosen


def test_every_option_has_a_meaning_in_the_file() -> None:
    # No option is written without its description and default.
    text = " ".join(render_experiment().replace("\n#", " ").split())
    for section in Experiment.model_fields.values():
        inner = getattr(section.annotation, "model_fields", {})
        for field in inner.values():
            assert " ".join(field.description.split()) in text


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    # A run gives the same result from any folder.
    text = 'out = "res"\n[data]\nfiles = ["a/*.traj", "/abs/b.db"]\n'
    experiment = load_experiment(write(tmp_path, text))
    assert experiment.out == str(tmp_path / "res")
    assert experiment.data.files == [str(tmp_path / "a/*.traj"), "/abs/b.db"]


def test_a_database_file_is_relative_to_the_file(tmp_path: Path) -> None:
    # Like every other path.
    experiment = load_experiment(write(tmp_path, '[tuning]\nstorage = "sqlite:///a.db"\n'))
    assert experiment.tuning.storage == f"sqlite:///{tmp_path}/a.db"


@pytest.mark.parametrize(
    ("override", "said", "hint"),
    [
        ("tuning.trails=5", "tuning.trails: no such option", "trials"),
        ("tunning.trials=5", "tunning: no such option", "tuning"),
        ("tuning.trials=0", "tuning.trials", ""),
        ("tuning.trials=many", "tuning.trials", ""),
        ("split.train=0.5", "must be 1", ""),
        ("tuning.space.lr={low=-1, high=2}", "space.lr", ""),
        ("tuning.space.lr={low=2, high=1}", "must not be above", ""),
        ("tuning.space.lx={low=1, high=2}", "space.lx: no such option", ""),
        ("tuning.space.activation={low=1, high=2}", "not a number", ""),
        ("tuning.trials", "no '='", ""),
        ("tuning.space.fingerprints.cutof={low=4, high=5}", "space.fingerprints.cutof: it", ""),
        ("tuning.space.fingerprints.densities={choices=['a']}", "fingerprints.densities: it", ""),
        ("tuning.space.fingerprints.cutoff={low=0, high=5}", "space.fingerprints.cutoff = 0", ""),
        ("tuning.space.fingerprints.cutoff={low=4}", "space.fingerprints.cutoff.high: Field", ""),
        ("tuning.space.fingerprints.orders={low=1, high=9}", "space.fingerprints.orders = 9", ""),
        ("tuning.space.fingerprints.square={low=0, high=1}", "square: not a number", ""),
        ("tuning.space.fingerprints.sigmas={choices=[1]}", "fingerprints.sigmas.choices", ""),
        (
            "tuning.space.fingerprints.sigmas.smallest={low=1, high=5}",
            "sigmas.smallest is up to 5 Å, but fingerprints.sigmas.largest may be 4.4 Å",
            "",
        ),
        (
            "tuning.space.fingerprints.switch_width={low=1, high=6}",
            "switch_width is up to 6 Å, but fingerprints.cutoff may be 5 Å",
            "",
        ),
        ("fingerprints.switch_width=6", "switch_width (6 Å) is above the cutoff", ""),
        ("tuning.storage='postgresql://me:secret@host/db'", "password", ""),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, override: str, said: str, hint: str) -> None:
    # The message names the option and, for a typo, the option that was meant.
    with pytest.raises(OptionError) as caught:
        load_experiment(write(tmp_path, ""), [override])
    assert said in caught.value.what
    assert "secret" not in str(caught.value)
    assert hint in caught.value.hint


def test_setting_an_option_takes_it_out_of_the_search() -> None:
    # --set training.lr fixes the learning rate, though the default space searches it.
    experiment = make_experiment({}, ["training.lr=0.5"])
    assert experiment.training.lr == 0.5
    assert "lr" not in experiment.tuning.space
    assert "num_nodes" in experiment.tuning.space


SEARCHED = """
[tuning.space]
lr = { low = 0.1, high = 1 }
fingerprints.cutoff = { low = 4, high = 8, step = 1 }
fingerprints.sigmas.number = { low = 3, high = 8 }
"fingerprints.sigmas.largest" = { choices = [3, 4] }
"""


def test_fingerprints_in_the_space(tmp_path: Path) -> None:
    # Tables within the table and quoted keys are the same names; written out and read again they
    # still are, and a range that is set replaces the one of the file, however it was written.
    path = write(tmp_path, SEARCHED)
    experiment = load_experiment(path)
    assert experiment.tuning.space == {
        "lr": Range(low=0.1, high=1),
        "fingerprints.cutoff": Range(low=4, high=8, step=1),
        "fingerprints.sigmas.number": Range(low=3, high=8),
        "fingerprints.sigmas.largest": Choices(choices=[3.0, 4.0]),
    }
    assert experiment.tuning.searches_fingerprints
    assert not Tuning().searches_fingerprints
    assert load_experiment(write(tmp_path, render_experiment(experiment))) == experiment
    one = "{choices=[5.0]}"
    for override in (
        f"tuning.space.fingerprints.cutoff={one}",
        f"tuning.space.'fingerprints.cutoff'={one}",
    ):
        space = load_experiment(write(tmp_path, SEARCHED), [override]).tuning.space
        assert space["fingerprints.cutoff"] == Choices(choices=[5.0])
        assert len(space) == 4


def test_setting_a_fingerprint_option_takes_it_out_of_the_search(tmp_path: Path) -> None:
    # As for [training]; sigmas that are given leave nothing of them to search.
    path = write(tmp_path, SEARCHED)
    space = load_experiment(path, ["fingerprints.cutoff=6"]).tuning.space
    assert set(space) == {"lr", "fingerprints.sigmas.number", "fingerprints.sigmas.largest"}
    space = load_experiment(path, ["fingerprints.sigmas=[1.0, 2.0]"]).tuning.space
    assert set(space) == {"lr", "fingerprints.cutoff"}


def test_everything_may_be_fixed_and_one_range_changed() -> None:
    # Fixing the only searched option leaves nothing to search, which training alone allows; a
    # range that is set replaces that of the defaults and leaves the others.
    only = {"tuning": {"space": {"lr": {"choices": [0.1]}}}}
    assert make_experiment(only, ["training.lr=0.5"]).tuning.space == {}
    space = make_experiment({}, ["tuning.space.lr={choices=[0.1]}"]).tuning.space
    assert space["lr"] == Choices(choices=[0.1])
    assert "gamma" in space


def test_the_default_folder_is_beside_the_file(tmp_path: Path, monkeypatch) -> None:
    # Running a file from another folder finds what is there already.
    monkeypatch.chdir("/")
    assert load_experiment(write(tmp_path, "")).out == str(tmp_path / "ampflow-results")


def test_a_distribution_is_replaced_whole(tmp_path: Path) -> None:
    # Half of an old range and half of a new one would be neither.
    path = write(tmp_path, "[tuning.space]\nlr = { low = 0.1, high = 1, log = true }\n")
    space = load_experiment(path, ["tuning.space.lr={choices=[0.5]}"]).tuning.space
    assert space == {"lr": Choices(choices=[0.5])}
    space = load_experiment(path, ["tuning.space.lr={low=0.2, high=0.3}"]).tuning.space
    assert space == {"lr": Range(low=0.2, high=0.3)}


def test_default_space_is_within_the_options() -> None:
    # AmpOpt's seven hyperparameters are searched by default, and Training knows them all.
    expected = {
        "num_layers", "num_nodes", "lr", "gamma", "dropout_rate", "step_size", "batch_size",
    }  # fmt: skip
    assert set(Experiment().tuning.space) == expected
    assert expected <= set(Training.model_fields)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    # Missing, not TOML, not text: each says which file.
    with pytest.raises(StorageError, match=r"no\.toml: no such file"):
        load_experiment(tmp_path / "no.toml")
    with pytest.raises(OptionError, match="not valid TOML"):
        load_experiment(write(tmp_path, "a = = b"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match=r"binary\.toml"):
        load_experiment(tmp_path / "binary.toml")


def test_sigmas_and_orders_have_short_forms() -> None:
    # A highest order stands for all up to it, three numbers for a series of sigmas.
    short = make_experiment(
        {}, ["fingerprints.orders=2", "fingerprints.sigmas={number=3,smallest=0.2,largest=3.2}"]
    )
    full = make_experiment(
        {}, ["fingerprints.orders=[0, 1, 2]", "fingerprints.sigmas=[0.2, 0.8, 3.2]"]
    )
    assert make_descriptor(short.fingerprints) == make_descriptor(full.fingerprints)
    assert Spaced(number=1, smallest=0.7, largest=9.0).widths() == [0.7]


def test_orders_may_have_their_own_sigmas(tmp_path: Path) -> None:
    # Those named have theirs, the others the common ones; all survives writing and reading.
    chosen = make_experiment(
        {"out": "/o"},
        [
            "fingerprints.order_sigmas={2=[0.5], 3=[0.5, 1.5]}",
            "fingerprints.sigmas={number=2,smallest=1,largest=2}",
            "fingerprints.orders=3",
            'fingerprints={harmonics="surface", rs=0.5, rs_setup="scale"}',
        ],
    )
    descriptor = make_descriptor(chosen.fingerprints)
    assert descriptor.sigmas == {0: (1, 2), 1: (1, 2), 2: (0.5,), 3: (0.5, 1.5)}
    assert (descriptor.rs, descriptor.rs_setup) == (0.5, "scale")
    assert load_experiment(write(tmp_path, render_experiment(chosen))) == chosen
    assert Experiment.model_validate_json(chosen.model_dump_json()) == chosen
    with pytest.raises(OptionError, match=r"orders \[0, 1, 2, 3, 5\]"):
        make_descriptor(Fingerprints(order_sigmas={5: [1.0]}))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("orders=9", "fingerprints.orders: Input should be less than or equal to 8"),
        ("orders=[0, 9]", "fingerprints.orders.1: Input should be less than or equal to 8"),
        ("orders=[]", "fingerprints.orders: List should have at least 1 item"),
        ("sigmas=3", "fingerprints.sigmas: Input should be a valid list"),
        ("sigmas=[0.5, -1]", "fingerprints.sigmas.1: Input should be greater than 0"),
        ("sigmas={number=3}", "fingerprints.sigmas.smallest: Field required"),
        ("sigmas={number=3,smallest=2,largest=1}", "smallest must be below largest"),
        ("order_sigmas={3=[]}", "fingerprints.order_sigmas.3: List should have at least 1 item"),
        ("rs=0", "fingerprints.rs: Input should be greater than 0"),
    ],
)
def test_wrong_sigmas_and_orders_are_named(override: str, said: str) -> None:
    # In one sentence, for the form that was meant.
    with pytest.raises(OptionError) as caught:
        make_experiment({}, [f"fingerprints.{override}"])
    assert said in str(caught.value)


def test_forms_offer_each_form_of_an_option() -> None:
    # Prefect's form knows alternatives as "anyOf" alone.
    schema = Experiment.model_json_schema()["$defs"]["Fingerprints"]["properties"]
    assert [len(schema[name]["anyOf"]) for name in ("sigmas", "orders")] == [2, 2]


# Every option of [training] can be searched, or is refused by its name with what is wrong.
@pytest.mark.parametrize("name", Training.model_fields)
def test_every_option_of_training_can_be_searched(name: str) -> None:
    value = getattr(Training(), name)
    if name == "reference_energies":
        value = {"H": -1.0}
    if isinstance(value, bool | int | float | str):
        space = Tuning(space={name: Choices(choices=[value])}).space
        assert space[name] == Choices(choices=[value])
    else:
        with pytest.raises(ValidationError, match=name):
            Tuning.model_validate({"space": {name: {"choices": [value]}}})
