"""What was measured of the host's samplers behind Fewer Calls: the one place to look it up.

From ``python dev.py bench host_any_sampler`` (benchmarks/RESULTS.md).
"""

from collections.abc import Callable

from ...sv_core.velocity_record import DATA, VELOCITY, Quantity

FORECAST: dict[str, Quantity] = {
    "exp_heun_2_x0_sde": DATA,
    "res_multistep_ancestral": DATA,
    "sa_solver": DATA,
    "sa_solver_pece": DATA,
}
"""Samplers for which another quantity than the velocity is forecast: 1 to 5 dB nearer."""

_DRAWS = "it draws so much noise that with fewer calls it makes another picture, as fewer steps do"

LEFT_ALONE: dict[str, str] = dict.fromkeys(
    (
        "dpm_2_ancestral",
        "dpmpp_2m_sde",
        "dpmpp_2m_sde_gpu",
        "dpmpp_2m_sde_heun",
        "dpmpp_2m_sde_heun_gpu",
        "dpmpp_2s_ancestral",
        "dpmpp_3m_sde",
        "dpmpp_3m_sde_gpu",
        "lcm",
    ),
    _DRAWS,
)
"""Samplers that run as without the node, and why: with half of the calls neither forecast
is above 19 dB."""


def name_of(function: Callable) -> str:
    """As the table has it: the function's own, without ``sample_``."""
    return getattr(function, "__name__", type(function).__name__).removeprefix("sample_")


def quantity_for(name: str) -> Quantity:
    """What to forecast between the calls of a sampler."""
    return FORECAST.get(name, VELOCITY)
