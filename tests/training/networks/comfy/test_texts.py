"""Texts of another family's encoders are refused in words."""

from dataclasses import replace

import pytest
import torch

from tests.training.in_comfy import refused
from tests.training.networks.comfy.tiny_backbones import backbone, small
from training.networks.comfy import self_check

pytestmark = [pytest.mark.inside, pytest.mark.usefixtures("tiny_models")]


def test_texts_of_other_encoders_are_refused():
    wan, sd3 = backbone("wan"), backbone("sd3")
    refused(lambda: wan.reading(small("wan").texts), "context", "4096", "32", "Wan2.2 14B's text")
    entry = {"context": torch.zeros(3, 4096)}
    refused(lambda: sd3.reading([entry]), "pooled", "2048", "none", "SD3.5's text")
    one = replace(small("wan"), texts=None)
    refused(lambda: one.velocity(*self_check.sample(one)[:3]), "no texts", kind=RuntimeError)
