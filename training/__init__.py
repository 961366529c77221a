"""The trainer: from data to checkpoints. Imports sv_core; what knows ComfyUI says so in its name.

commands    prepare, finetune, sample, toy, toy_meanflow, demo, footprint; cli: their edge
caches      listing, captions, images, pictures, videos: what lies in a folder
            plan, jobs, encode, lock: which of it is made when; reading: ahead of its use
            codec, vae, encoders, text, host_codec: the networks that it goes through
            shards, cache, companions: the files, and what training reads of them
a run       config, settings: what it is told; loop: its steps; learner: one of them
            state, checkpoint: what is saved; parallel: several processes; data: its batches
            objective, meanflow, align: what is learnt; validate, preview, charts, trackers
weights     backbones/: the networks; lora, rounding, offload, blocks, optim
digits      digits, figure, parts, integrators; toy_*: the 2-D experiments
"""

import os

# Set before torch starts its threads: waiting threads then sleep. Where they spin instead, a second
# busy program on the machine makes each small operation wait for a core (15 times slower).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
