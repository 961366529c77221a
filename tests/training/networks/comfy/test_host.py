"""One process opens one ComfyUI, without its server, set up for training."""

import pytest
import torch

from tests.training.in_comfy import HOST, WITH_SERVER, refused
from tests.training.networks.comfy.tiny_backbones import OUT
from training.networks.comfy.host import open_host

pytestmark = [pytest.mark.inside, pytest.mark.usefixtures("tiny_models")]


def test_one_process_opens_one_host_once():
    assert open_host(HOST.folder, torch.device("cpu")) is HOST
    refused(lambda: open_host(OUT, torch.device("cpu")), "one ComfyUI", str(HOST.folder))
    assert not WITH_SERVER and HOST.management.in_training
