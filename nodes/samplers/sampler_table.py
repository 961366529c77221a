"""What was measured of the host's samplers behind Fewer Calls: the one place to look it up.

From ``python dev.py bench host_any_sampler`` (benchmarks/RESULTS.md), which also runs RES4LYF's
samplers where a host has that pack.
"""

from collections.abc import Callable

_DRAWS = "it draws so much noise that with fewer calls it makes another picture, as fewer steps do"

RES4LYF = (
    "deis_2m", "deis_2m_ode", "deis_3m", "deis_3m_ode", "legacy_rk", "res_2m", "res_2m_ode",
    "res_2s", "res_2s_ode", "res_3m", "res_3m_ode", "res_3s", "res_3s_ode", "res_5s", "res_5s_ode",
    "res_6s", "res_6s_ode", "rk", "rk_beta",
)  # fmt: skip
"""The names that the pack RES4LYF adds to the host's list; known here also where it is absent."""

LEFT_ALONE: dict[str, str] = dict.fromkeys(
    # The last two are RES4LYF's, with its noise in every stage; their _ode twins draw none.
    ("dpm_2_ancestral", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "lcm", "res_3s", "res_5s"),
    _DRAWS,
)
"""Samplers that run as without the node, and why: with half of the calls they are below 20 dB."""


def name_of(function: Callable) -> str:
    """As the table has it: the function's own, without ``sample_``."""
    return getattr(function, "__name__", type(function).__name__).removeprefix("sample_")
