"""What a configuration means by itself."""

import torch

from sv_core.models.sit import SiT, SiTConfig
from training.finetune import main


def test_models_by_name(write, capsys, tmp_path):
    config = str(write(f"run.out = {str(tmp_path / 'run')!r}"))
    assert main([config, "--dry-run", "--set", "model.name=SiT-Q/2"]) == 2
    assert "unknown model 'SiT-Q/2'" in capsys.readouterr().err
    assert main([config, "--dry-run"]) == 2
    assert "model.depth is missing" in capsys.readouterr().err
    small = ["--set", "model.name=SiT-S/4", "--set", "data.batch_size=2"]
    assert main([config, "--dry-run", *small]) == 0
    with torch.device("meta"):
        network = SiT(SiTConfig.named("SiT-S/4", input_size=8, in_channels=1, num_classes=10))
    size = sum(p.numel() for p in network.parameters())
    assert f"{size / 1e6:.2f} million parameters" in capsys.readouterr().out
