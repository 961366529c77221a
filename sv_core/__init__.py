"""The mathematics of Stable Velocity, in torch, numpy and einops, without host or trainer.

Notation, the same in every file (papers: Stable Velocity, arXiv 2602.05435; MeanFlow control
variates, arXiv 2605.09235):

======================  ==========================  ==============================================
maths                   code                        meaning
======================  ==========================  ==============================================
x0, eps, x_t            ``x0, eps, x_t``            data, Gaussian noise, noisy sample (b, ...)
t, r                    ``t, r``                    time in [0, 1]: **0 is data, 1 is noise**;
                                                    (b,) in training, 0-d inside samplers; a step
                                                    goes t -> r with r < t
alpha, sigma            ``alpha, sigma``            x_t = alpha(t) x0 + sigma(t) eps
v                       ``v``                       velocity alpha' x0 + sigma' eps = dx_t/dt
x0^, eps^, v^           ``x0_hat, eps_hat, v_hat``  a hat marks an estimate
log(alpha/sigma)        ``log_snr``                 half the log signal-to-noise ratio
xi                      ``split``                   t >= split: high-variance regime
b_1..b_m                ``refs``                    references of one condition (m, ...)
w                       ``w``                       posterior weights (b, m), rows sum to 1
time grid               ``ts``                      (n+1,) descending, ends at 0; on the linear
                                                    path it *is* ComfyUI's SIGMAS
======================  ==========================  ==============================================

A velocity is any callable ``velocity(x, t) -> v`` with a 0-d ``t``: guidance, masks and prediction
types are wrappers around it, on which samplers do not depend.
"""
