"""Our samplers beside ComfyUI's own ways to save model calls, inside ComfyUI.

    python dev.py bench host_samplers [CHECKPOINT]

Runs in the interpreter of every ComfyUI that dev.py finds (COMFYUI_PATH names others) and prints
Markdown tables. CHECKPOINT is the digits model, out/demo/digits_sit.safetensors unless given.

Models: that trained SiT with guidance 2, and two flows of exact velocity (benchmarks/flows.py),
as host models with the host's own ``simple`` grid at shift 3, and then with the schedules of the
four families, averaged over the models. Calls are counted at the network.
E30 is the host's ``euler`` with 30 steps from the same noise, ODE the converged solution. dB as in
benchmarks/samplers.py: -20 log10(RMSE / std), mean over samples.

- EasyCache: the host's node on ``euler`` and 30 steps. Of 30 thresholds and three starts the one
  whose result is nearest to E30 with at most so many calls: more than a user could choose (on the
  families' schedules one start, 0.15, and ten thresholds). It
  judges by every eighth pixel, of the 8 x 8 digits by one.
- OptimalSteps: the host's grids, which were searched for FLUX and Wan, not for these models.
"""

import sys

from benchmarks.in_hosts import run_in_hosts

if __name__ == "__main__":
    sys.exit(run_in_hosts("host_methods.py", __doc__.splitlines()[0]))
