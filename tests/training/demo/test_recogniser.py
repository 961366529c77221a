"""The recogniser knows digits."""

from training.data import digits
from training.demo import recogniser


def test_the_recogniser_knows_real_digits_and_not_their_negatives():
    judge, (_, held_out) = recogniser.Recogniser(), digits.load()
    assert judge.accuracy > 0.98
    assert judge.share(held_out.images, (held_out.labels + 1) % 10) < 0.02
