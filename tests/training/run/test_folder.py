"""A run's folder: where each file is, and whose run it is."""

from dataclasses import replace

import pytest

from sv_core.errors import Unavailable
from training.config.load import dump
from training.run.folder import RunFolder


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.make()
    return made


def test_files_of_different_moments_never_share_a_name(folder):
    names = [folder.weights(step, decay) for step in (5, 50) for decay in (None, 0.9, 0.99)]
    names += [folder.bank(step, process) for step in (5, 50) for process in (1, 2)]
    names += [folder.states.state(5), folder.states.manifest(5), folder.states.state(50)]
    names += [folder.preview(5), folder.preview(50), folder.config, folder.metrics]
    assert len(set(names)) == len(names)
    assert all(folder.out in path.parents for path in names)


def test_the_last_weights_are_those_of_the_latest_step(folder):
    assert folder.last_weights() is None
    for step in (999, 10_000, 5):
        folder.weights(step).touch()
    assert folder.last_weights() == folder.weights(10_000)


def test_a_folder_is_of_the_very_configuration_that_it_holds(folder, tiny):
    assert not folder.is_of(tiny)
    folder.config.write_text(dump(tiny), "utf-8")
    assert folder.is_of(tiny)
    assert not folder.is_of(replace(tiny, optim=replace(tiny.optim, lr=1e-3)))


def test_a_folder_that_cannot_be_one_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"cannot write into .*run\.out"):
        RunFolder(tmp_path / "file" / "run").make()
