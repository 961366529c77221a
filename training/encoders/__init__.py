"""Networks that a picture or a caption goes through before training."""
