"""A run ends when the user wishes it, in whatever way the host says so."""

from importlib import import_module

import comfy.model_management
import pytest

from tests.nodes.changed_host import MISSING, put
from tests.nodes.loaded_pack import NAME, complaint

pytestmark = pytest.mark.inside
interrupt = import_module(".nodes.host.interrupt", NAME)
FUNCTION = "throw_exception_if_processing_interrupted"


def test_the_host_s_own_exception_ends_it():
    interrupt.stop_if_interrupted()
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        interrupt.stop_if_interrupted()
    interrupt.stop_if_interrupted()  # which the host has taken back


def test_a_host_without_it_has_another_way_and_one_that_changed_it_is_named():
    with put(comfy.model_management, FUNCTION, MISSING):
        interrupt.stop_if_interrupted()
    with put(comfy.model_management, FUNCTION, lambda prompt: None):
        assert "update Stable Velocity" in complaint(interrupt.stop_if_interrupted)
