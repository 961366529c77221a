"""What a counter counts: the network itself, whatever stands before it."""

from importlib import import_module

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from comfy_extras.nodes_easycache import LazyCacheNode

from tests.nodes.fewer_calls_runs import GRID20, behind, sampler
from tests.nodes.loaded_pack import NAME, make_model, sample
from tests.nodes.moded_flow import MODES, SEEN

pytestmark = pytest.mark.inside
counting = import_module(".nodes.host.counting", NAME)


class Blocks(torch.nn.Module):
    """An exact flow behind three blocks that change nothing; ``skip`` leaves the blocks out."""

    def __init__(self, flow):
        super().__init__()
        self.flow, self.config, self.pos_embed = flow, flow.config, flow.pos_embed
        self.blocks = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
        self.skip = lambda t: False

    def forward(self, x, t, **options):
        if not self.skip(float(t[0])):
            for block in self.blocks:
                x = block(x)
        return self.flow(x, t, **options)


def counted(model):
    told = []
    model, counts = counting.make_counter(model, told.append)
    return model, counts, told


def test_it_counts_what_the_network_was_asked_and_changes_nothing():
    model, counts, told = counted(MODES)
    made = sample(sampler("euler"), GRID20, model=model)
    assert torch.equal(made, sample(sampler("euler"), GRID20, model=MODES))
    assert (counts.runs, counts.calls, counts.cond, counts.uncond) == (1, 20, 20, 0)
    assert 0 < counts.seconds <= counts.sampling_seconds
    assert told[0].startswith("20 calls, 20 network evaluations (20 with the prompt, 0 without)")


def test_heun_asks_twice_at_every_level_but_the_last():
    model, counts, _ = counted(MODES)
    sample(sampler("heun"), GRID20, model=model)
    assert counts.calls == counts.evaluations == 39


def test_behind_fewer_calls_it_counts_those_that_are_made():
    model, counts, _ = counted(behind(way="number", number=7)[0])
    sample(sampler("euler"), GRID20, model=model)
    assert counts.calls == 7


def test_behind_a_cache_it_counts_what_is_left():
    cached = LazyCacheNode.execute(MODES, 0.5, 0.0, 1.0, False).args[0]
    model, counts, _ = counted(cached)
    SEEN.clear()
    sample(sampler("euler"), GRID20, model=model)
    assert counts.calls == len(SEEN) < 20


def test_a_cache_inside_the_network_that_leaves_out_its_blocks_is_seen():
    patcher = make_model()
    network = patcher.model.diffusion_model = Blocks(patcher.model.diffusion_model)
    network.skip = lambda t: 0.3 < t < 0.6
    model, counts, _ = counted(patcher)
    sample(sampler("euler"), GRID20, model=model)
    inside = sum(0.3 < float(s) < 0.6 for s in GRID20[:-1])
    assert inside and counts.calls == 20 - inside
    assert not any(block._forward_pre_hooks for block in network.blocks)


class Wrapped(torch.nn.Module):
    """An exact flow without blocks, behind the host's wrappers of a network."""

    def __init__(self, flow):
        super().__init__()
        self.flow, self.config, self.pos_embed, self.blocks = flow, flow.config, flow.pos_embed, []

    def forward(self, x, t, *args, transformer_options=None, **options):
        options_of_run = transformer_options or {}
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options_of_run)
        return WrapperExecutor.new_executor(self._forward, wrappers).execute(
            x, t, transformer_options=options_of_run
        )

    def _forward(self, x, t, **options):
        return self.flow.forward(x, t)


def test_where_no_block_is_heard_a_cache_before_the_network_is_seen_all_the_same():
    patcher = make_model()
    patcher.model.diffusion_model = Wrapped(patcher.model.diffusion_model)
    last = []

    def cache(executor, x, t, *args, **options):
        if not 0.3 < float(t[0]) < 0.6:
            last[:] = [executor(x, t, *args, **options)]
        return last[0]

    cached = patcher.clone()
    cached.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "cache", cache)
    model, counts, _ = counted(cached)
    sample(sampler("euler"), GRID20, model=model)
    inside = sum(0.3 < float(s) < 0.6 for s in GRID20[:-1])
    assert inside and counts.calls == 20 - inside


def test_with_guidance_both_conditions_are_told_apart():
    model, counts, _ = counted(MODES)

    def both(executor, x, timestep, *args, **options):
        """What a guider does at cfg 2: the host's own samples here at cfg 1."""
        positive = executor.class_obj.conds["positive"]
        conds = [positive, positive]
        done = comfy.samplers.calc_cond_batch(
            executor.class_obj.inner_model, conds, x, timestep, executor.class_obj.model_options
        )
        return done[0]

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "guidance", both)
    sample(sampler("euler"), GRID20, model=model)
    assert (counts.calls, counts.cond, counts.uncond) == (20, 20, 20)
    assert counts.as_numbers()["evaluations"] == 40
