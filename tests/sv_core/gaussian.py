"""Gaussian data N(MEAN, STD^2), whose velocity and average velocity are known in closed form."""

import torch

MEAN, STD = 0.7, 0.5


def gaussian_u(x, r, t, mean=MEAN, std=STD):
    """Exact on N(mean, std^2): the flow maps every standardised point to itself."""

    def moments(t):
        return (1 - t) * mean, ((1 - t) ** 2 * std**2 + t**2).sqrt()

    (m_r, s_r), (m_t, s_t) = moments(r), moments(t)
    x_r = m_r + s_r / s_t * (x - m_t)
    return (x - x_r) / (t - r)


def gaussian_v(x, t, mean=MEAN, std=STD):
    gain = (t - (1 - t) * std**2) / ((1 - t) ** 2 * std**2 + t**2)
    return -mean + gain * (x - (1 - t) * mean)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)
