"""The trainer: from data to checkpoints. Imports sv_core; only files called comfy know ComfyUI.

commands    prepare, finetune, sample; demo and toy (packages with a __main__)
config/     the keys of a run and of a preparation, how they are read, what must hold between them
caching/    from a folder of pictures or videos to a latent cache
encoders/   the networks that pictures and captions go through on their way there
data/       the files of a cache, and the batches and references that a run reads
networks/   what can be trained: SiT, and in comfy/ whatever ComfyUI loads; lora.py changes either
objectives/ what a network is trained to predict: velocity, average velocity; alignment; the bank
engine/     how a step is computed: processes, optimisers, offloading, compilation, memory
run/        the loop, one step, state, checkpoints, validation, previews, reports
sampling/   pictures of a network, while it trains and afterwards
files, rng, prefetch   files written whole, randomness by purpose, reading ahead
"""

import os

# Set before torch starts its threads: waiting threads then sleep. If they spun instead, a second
# busy program on the machine would make each small operation wait for a core (15 times slower).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
