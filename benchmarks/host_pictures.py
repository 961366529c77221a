"""The picture model in ComfyUI: ours and the rivals at equal evaluations, by guidance and steps.

    python dev.py bench host_pictures [CHECKPOINT] [--cfg 1,3,5] [--steps 20,30] [--share 0.5]
                                      [--seed 101] [--out FOLDER] [--resume]

Runs in the interpreter of every ComfyUI that dev.py finds (COMFYUI_PATH names others) and prints a
Markdown table for each cfg and number of steps; rows.json in FOLDER holds the rows. CHECKPOINT is
models/emoji.ckpt unless given. Seeds from 101 on come with words that no rule was chosen on.

16 pictures of 64 x 64, euler on the host's ``simple`` grid at the model's own shift 3; every method
has so many calls: a share of the steps. A guided call is two evaluations, cond + uncond, counted at
the network.

- dB: of the latents, -20 log10(RMSE / std), mean over the pictures, to the same euler's own 20 or
  30 steps; the worst picture; and to the converged solution (400 calls of ``ode``).
- PSNR of the decoded pictures to those of all steps, mean over the pictures.
- s: of one run beside other work, its arithmetic included; of it in the network.

Rivals have their settings chosen in their favour, by the result itself: every list of nodes that
their rule can give with so many calls; SeaCache the smallest threshold that makes no more calls;
EasyCache and LazyCache the nearest of some 50 settings, where EasyCache is given a seam that SD3.5
lacks in the host, and a measure of every pixel beside its own of every eighth. Their batch decides
together. "in features": forecast where TaylorSeer and Spectrum do, before the last layer.
"""

import sys

from benchmarks.in_hosts import ROOT, run_in_hosts

if __name__ == "__main__":
    script, text = "host_pictures_methods.py", __doc__.splitlines()[0]
    sys.exit(run_in_hosts(script, text, ROOT / "models" / "emoji.ckpt"))
