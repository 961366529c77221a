"""Recomputed and compiled blocks, and a compiler that fails."""

import functools
from dataclasses import replace

import torch

from training.config.load import dump
from training.finetune import main


def test_a_compiler_that_fails_is_said(tiny, tmp_path, monkeypatch, capsys):
    def no_compiler(graph, inputs):
        raise RuntimeError("no C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=no_compiler))
    file = tmp_path / "config.toml"
    file.write_text(dump(replace(tiny, run=replace(tiny.run, compile=True))))
    assert main([str(file)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: run.compile failed (") and "no C++ compiler found" in said
