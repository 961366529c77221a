"""ComfyUI's lists are extended whole or not at all."""

from importlib import import_module

import comfy.k_diffusion.sampling
import comfy.samplers
import pytest

from tests.nodes.changed_host import MISSING, put
from tests.nodes.loaded_pack import NAME

pytestmark = pytest.mark.inside
dropdowns = import_module(".nodes.host.dropdowns", NAME)
KSAMPLER = comfy.samplers.KSampler
SAMPLERS = [(comfy.samplers, "SAMPLER_NAMES"), (comfy.samplers, "KSAMPLER_NAMES")]
SCHEDULERS = [(comfy.samplers, "SCHEDULER_NAMES")]


def state():
    lists = (*SAMPLERS, *SCHEDULERS, (KSAMPLER, "SAMPLERS"), (KSAMPLER, "SCHEDULERS"))
    names = [list(getattr(owner, name, None) or ()) for owner, name in lists]
    functions = set(vars(comfy.k_diffusion.sampling))
    return names, list(comfy.samplers.SCHEDULER_HANDLERS), functions


def sample_never(*args):
    raise AssertionError


@pytest.mark.parametrize("value", [MISSING, (), {}, None], ids=["gone", "tuple", "dict", "None"])
@pytest.mark.parametrize(
    ("add", "owner", "name"),
    [
        *(("add_sampler", *place) for place in (*SAMPLERS, (KSAMPLER, "SAMPLERS"))),
        *(("add_scheduler", *place) for place in (*SCHEDULERS, (KSAMPLER, "SCHEDULERS"))),
    ],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_a_list_that_is_gone_or_none_leaves_all_others_as_they_are(add, owner, name, value):
    with put(owner, name, value):
        before = state()
        with pytest.raises((AttributeError, TypeError)):
            getattr(dropdowns, add)("of_no_one", sample_never)
        assert state() == before
    assert "of_no_one" not in comfy.samplers.SAMPLER_NAMES
