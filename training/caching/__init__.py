"""From a folder of pictures or videos to a latent cache."""
