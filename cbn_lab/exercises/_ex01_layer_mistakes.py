"""Wrong layers for exercise 1.6, each with its message: the bugs of the gallery, and others like them."""

from cbn_lab.norms import gallery


class _AlwaysTheBatch(gallery.Correct):
    def uses_batch(self):
        return True

    def update(self, mean, var, n):
        if self.training:
            super().update(mean, var, n)


class _UpdatesInEval(gallery.Correct):
    def forward(self, x):
        y = super().forward(x)
        if not self.training and x.numel() > x.shape[1]:
            self.update(*self.moments(x.detach(), self.axes(x)), x.numel() // x.shape[1])
        return y


class AcceptsOneValue(gallery.Correct):
    def _check(self, x):
        if x.numel() != x.shape[1]:
            super()._check(x)

    def stored_variance(self, var, n):
        return var * (n / max(n - 1, 1))


class _CountsImages(gallery.Correct):
    def forward(self, x):
        self.images = len(x)
        return super().forward(x)

    def stored_variance(self, var, n):
        return var * (self.images / max(self.images - 1, 1))


class _NormalizesWithTheRunningStatistics(gallery.Correct):
    def forward(self, x):
        y, training = super().forward(x), self.training
        y = self.eval().forward(x) if training else y
        self.train(training)
        return y


class _NoEpsInEval(gallery.Correct):
    def divisor(self, var):
        return super().divisor(var) if self.training else var.sqrt()


class _NoAffineMap(gallery.Correct):
    def forward(self, x):
        self.affine = False
        return super().forward(x)


class _NoAffineMapInEval(gallery.Correct):
    def forward(self, x):
        self.affine = self.training
        return super().forward(x)


ALSO = {  # the message -> a layer that makes the mistake; tried in tests/test_ex01.py
    "the unbiased variance is made with the number of images; n is the number of values per channel, N H W":
        _CountsImages,
    "in train mode you normalize with the running statistics after their update; expected the batch's own":
        _NormalizesWithTheRunningStatistics,
    "eps is missing in eval mode: the divisor is sqrt(running_var + eps)": _NoEpsInEval,
    "weight and bias are not applied in eval mode": _NoAffineMapInEval,
    "weight and bias are not applied": _NoAffineMap,
}
MISTAKES = {  # the mistake -> (a layer that makes it, the message)
    "axes": (gallery.OneMeanForAllChannels,
             "in train mode all channels share one mean and one variance: leave axis 1 out of the average"),
    "normalizes by the unbiased variance": (
        gallery.NormalizesByUnbiasedVariance,
        "in train mode you divide by the root of the unbiased variance; the batch is normalized with the biased one"),
    "eps outside the root": (gallery.EpsOutsideTheRoot, "you divide by sqrt(var) + eps, expected sqrt(var + eps)"),
    "stores the biased variance": (
        gallery.StoresBiasedVariance,
        "running_var receives the biased variance; it stores the unbiased one, n / (n - 1) times as large"),
    "momentum reversed": (
        gallery.MomentumReversed,
        "momentum is the weight of the batch: new = (1 - momentum) * old + momentum * batch"),
    "decides by the grad mode": (
        gallery.DecidesByGradMode,
        "train or eval is decided by whether gradients are recorded; it is `self.training` that says so"),
    "the batch's statistics always": (
        _AlwaysTheBatch, "in eval mode the layer still uses the statistics of the batch; expected the running ones"),
    "updates in eval mode": (_UpdatesInEval, "an eval pass changes the running statistics; only train mode does that"),
    "one pass": (gallery.OnePassVariance,
                 "at a mean of 10,000 in float32 the variance is off by several units: subtract the mean before you "
                 "square"),
    "constant statistics": (gallery.ConstantStatistics,
                            "the gradient does not flow through mean and variance: compute them with gradients on, and "
                            "detach only what is stored"),
    "buffers rebound": (gallery.RebindsBuffers,
                        "running_mean is a new tensor after the batch: change it in place (`lerp_`, `copy_`)"),
    "graph kept": (gallery.KeepsTheGraph,
                   "running_mean became part of the autograd graph: store `mean.detach()`"),
}
