"""From a backbone to pictures: guided velocities, chains and sheets, against closed forms."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sv_core.latent import pixels
from sv_core.sampling import sample_euler
from training.sampling import pictures


def backbone(velocity, average=None):
    return SimpleNamespace(
        model=nn.Linear(1, 1), latent=pixels(1), velocity=velocity, average_velocity=average
    )


def column(values):
    return values.view(-1, 1, 1, 1)


def test_guidance_moves_away_from_no_class_by_its_scale():
    of_class = backbone(lambda x, t, cond: column(cond.float()) + 0 * x)
    labels, x = torch.tensor([0, 1, 2]), torch.zeros(3, 1, 2, 2)
    for scale in (1.0, 2.0, 3.5):
        v = pictures.guided_velocity(of_class, labels, 3, scale)(x, torch.tensor(0.5))
        torch.testing.assert_close(v[:, 0, 0, 0], 3 + scale * (labels - 3.0))


def test_samples_reach_the_point_that_the_velocity_leads_to():
    point = torch.tensor([-0.5, 0.25, 1.0])
    to_point = backbone(lambda x, t, cond: (x - column(point[cond])) / column(t))
    noise = pictures.start_noise((1, 4, 4), 3, seed=1)
    made = pictures.sample(
        to_point, torch.arange(3), 0, noise, pictures.native_grid(7), 1.0, sample_euler
    )
    torch.testing.assert_close(made, column((point + 1) / 2).expand_as(made))


@pytest.mark.parametrize("calls", [1, 3])
def test_jumps_add_up_over_equal_intervals(calls):
    # u = r + t over [r, t]: the integral of 2 t, whatever the number of calls.
    field = backbone(None, lambda x, r, t, cond: column(r + t) + 0 * x)
    noise = pictures.start_noise((1, 2, 2), 2)
    made = pictures.sample_calls(field, torch.zeros(2, dtype=torch.long), noise, calls)
    torch.testing.assert_close(made, (noise - 1 + 1) / 2)


def test_noise_is_the_seed_s_alone():
    a, b, c = (pictures.start_noise((2, 8, 8), 40, seed) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert abs(float(a.mean())) < 0.05 and float(a.std()) == pytest.approx(1, abs=0.03)


def test_the_native_grid_is_the_papers():
    uniform = torch.linspace(1, 0, 31, dtype=torch.float64)
    expected = 3 * uniform / (1 + 2 * uniform)
    torch.testing.assert_close(pictures.native_grid().double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_shows_every_picture_enlarged_without_blur(tmp_path, channels):
    images = torch.randint(256, (6, channels, 4, 5), generator=torch.Generator().manual_seed(0))
    pictures.write_grid(tmp_path / "sheet.png", images / 255, columns=3, zoom=2)
    sheet = np.array(Image.open(tmp_path / "sheet.png")).reshape(2 * 2 * 5, 3 * 2 * 6, channels)
    for number, image in enumerate(images):
        row, column = divmod(number, 3)
        shown = sheet[row * 10 : row * 10 + 8, column * 12 : column * 12 + 10]
        enlarged = image.permute(1, 2, 0).numpy().repeat(2, 0).repeat(2, 1)
        assert (shown == enlarged).all()
