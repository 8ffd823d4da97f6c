# %% [markdown]
# # Why does batch normalization help: covariate shift, smoothness, or something else?
#
# Batch normalization (BN) makes many nets train faster. *Why* is less clear than most textbooks say. Three answers are
# in print. BN reduces *internal covariate shift* (Ioffe and Szegedy 2015). BN makes the loss *smoother* (Santurkar et
# al. 2018). BN allows *larger learning rates* (Bjorck et al. 2018). And there is a finding that points the other way:
# BN makes gradients *explode with depth* (Yang et al. 2019). In this notebook you repeat each of the four on a small
# net, and find out what each measurement shows and what it does not.
#
# **You will be able to**
# 1. measure internal covariate shift, and say what it does not explain (section 1, exercise 2.1);
# 2. say exactly what BN does to a gradient that passes through it (section 2, exercise 2.2);
# 3. measure smoothness along the gradient without fooling yourself (section 3, exercise 2.3);
# 4. compute how fast gradients grow with depth for any activation, and say why swapping the order of norm and
#    activation changes nothing (section 5, exercise 2.4).
#
# **Time:** about 35 minutes without the exercises: the words at 150 a minute, the proofs at half that speed. The cells
# take less than a minute of it on two CPU cores.
#
# Every claim carries one of four labels: **proved** (here), **measured** (here: seeds, device, settings),
# **reported** (in a cited source), **folklore**.

# %%
# Set-up, the same in every notebook. It can be run again at any time.
import os
import sys
from pathlib import Path

if "google.colab" in sys.modules:  # Colab has PyTorch and all the rest; nothing of it is touched
    here = Path.cwd()
    copies = [p for p in (here, here.parent, *here.glob("*/")) if (p / "cbn_lab").is_dir()]
    if not copies:
        raise FileNotFoundError(
            "put a copy of this repository into the session first: upload it, or use git clone")
    if str(copies[0]) not in sys.path:
        sys.path.insert(0, str(copies[0]))
    os.chdir(copies[0] / "notebooks")  # ../results and ../data are found from there

# %%
import copy
import math
from itertools import pairwise
from statistics import fmean

import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from torch import nn

from cbn_lab import activations, data, figures, models, norms, widgets
from cbn_lab.exercises import exercise
from cbn_lab.figures import Table
from cbn_lab.probes import depth, gradients, landscape, shift

torch.manual_seed(0)
SEEDS = (0, 1, 2)

# %% [markdown]
# ## Notation
#
# | symbol | meaning |
# |---|---|
# | $w$; $W_i$ | all parameters; those of layer $i$, counted from the input |
# | $L(w)$, $g(w) = \nabla L(w)$ | loss of *one* mini-batch, and its gradient |
# | $\eta$ | learning rate; one step of gradient descent is $w' = w - \eta\, g(w)$ |
# | $z$, $\hat z$, $y$ | input of a norm; $z$ centred and divided by $\sigma$; output $y = \gamma \hat z + \beta$ |
# | $\sigma$ | standard deviation of $z$ over the mini-batch, for one channel |
# | $\gamma$, $\beta$; $\varepsilon$ | a norm's learnt scale and shift; the small number that is added to $\sigma^2$ |
# | $n$ | samples in the mini-batch |
# | $f$ | activation |
# | fan-in | number of inputs of one unit |
#
# **Batch statistics** means that each norm uses the mean and variance of the present mini-batch (train mode). All
# probes below do, and they recompute these statistics wherever the loss is evaluated. A **probe** looks at a net and
# leaves it as it was: weights, running statistics and random state.
#
# ## The nets
#
# Everything runs on the bundled digits: 1,415 images of 8 by 8 pixels (Alpaydin and Kaynak 1998). The net is a
# perceptron with eight hidden layers of 64 units and ReLU, trained by plain gradient descent on mini-batches of 128:
# no momentum, no weight decay, constant learning rate. That is small and deep on purpose. Depth is where a plain net
# has trouble. The loss is the cross-entropy with the natural logarithm; its unit is the *nat*, and guessing costs
# $\ln 10 \approx 2.3$ nats. All runs are on the CPU. "1.2 (1.1 to 1.4, 3 seeds)" is a mean and the range over seeds;
# in the plots thick lines are means, and thin lines are seeds where the text does not say otherwise.
#
# There are four *arms*:
#
# - **plain**: weight, ReLU. Weights are drawn with variance $1/\text{fan-in}$, as everywhere in this course.
# - **plain, He init**: the same with weights larger by $\sqrt 2$ (He et al. 2015), which keeps the signal's second
#   moment through ReLU. Without this arm we could mistake a bad start for the lack of a norm.
# - **BN**: weight, BN, ReLU.
# - **noisy BN**: the experiment of Santurkar et al. 2018. Behind each BN the output of every unit is stretched and
#   shifted at random, and the distribution of this noise is drawn anew in every training step.
#
# The point of the last arm: whatever stability BN gives to the distribution of a layer's inputs, the noise destroys.
# The ranges of the noise are our choice. The table looks at one unit in three consecutive steps: BN holds its mean at 0
# and its variance at 1, the noisy version holds neither.

# %%
class NoisyBatchNorm(nn.Module):
    """BN, then y -> s * y + m, [N, C]: s and m have a part for each unit and one for each sample, new in every step."""

    def __init__(self, num_features, dims):
        super().__init__()
        self.norm = norms.get("batch_norm", num_features, dims)

    def forward(self, z):
        y = self.norm(z)
        if not self.training:
            return y
        unit, sample = y.new_empty(1, y.shape[1]), torch.empty_like(y)  # [1, C], [N, C]
        m = unit.uniform_(-0.5, 0.5) + sample.uniform_(-0.1, 0.1)
        s = unit.uniform_(1.0, 1.25) + 0.1 * sample.normal_()
        return s * y + m


norms.register("noisy", NoisyBatchNorm)

z = torch.randn(512, 4, dtype=torch.float64)
layers = {name: norms.get(name, 4, 1).double() for name in ("batch_norm", "noisy")}
rows = [("unit 0", *(f"step {i}: mean, variance" for i in (1, 2, 3)))]
for name, layer in layers.items():
    outputs = [layer(z)[:, 0].detach() for _ in range(3)]
    rows.append((name, *(f"{float(y.mean()):z.2f}, {float(y.var()):.2f}" for y in outputs)))
Table(rows)

# %%
digits = data.load("digits", "train")
images, labels = data.normalize(digits.images, digits), digits.labels
ARMS = {"plain": ("none", {}, 1.0), "plain, He init": ("none", {}, 2**0.5),
        "BN": ("before", {}, 1.0), "noisy BN": ("before", {"norm": "noisy"}, 1.0)}


def build(arm, seed, activation="relu", hidden=8):
    """A net of one arm. Equal seeds give equal weights in all arms, up to the factor of He's init."""
    placement, options, gain = ARMS[arm]
    torch.manual_seed(seed)
    net = models.build("mlp", num_classes=10, in_channels=1, image_size=8, activation=activation,
                       placement=placement, norm_options=options, width=64, depth=hidden)
    with torch.no_grad():
        for block in net[1:-1]:
            block.weight.weight.mul_(gain)
    return net


# %%
def descend(net, lr, seed, steps, keep=()):
    """Train in place; (loss of every step, copies of the net before the steps in `keep`)."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(1000 + seed)  # for the noise
    parameters, losses, kept = list(net.parameters()), [], {}
    for step in range(steps + 1):
        if step in keep:
            kept[step] = copy.deepcopy(net)
        rows = torch.randperm(len(labels), generator=generator)[:128]
        loss = F.cross_entropy(net(images[rows]), labels[rows])
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= lr * gradient
    return losses, kept


def tens(losses):
    """(step, mean over the ten steps before it)."""
    return [(i, fmean(losses[i - 10:i])) for i in range(10, len(losses), 10)]


def last(group):
    """Mean loss of the last ten steps, for each seed."""
    return [fmean(losses[-10:]) for losses, *_ in group]


# %% tags=["nbval-ignore-output"]
LR, STEPS = 0.1, 100
KEEP = (0, 5, 10, 20, 40, 70, 100)
trained = {arm: [descend(build(arm, seed), LR, seed, STEPS, KEEP) for seed in SEEDS] for arm in ARMS}
display(figures.traces({arm: [tens(losses) for losses, _ in group] for arm, group in trained.items()},
                       x="training step", y="training loss (nats)"))
ends = {arm: last(group) for arm, group in trained.items()}
jumps = {arm: sum(any(b - a > 0.2 for (_, a), (_, b) in pairwise(tens(losses))) for losses, _ in group)
         for arm, group in trained.items()}
between = sum(b < n < p for b, n, p in zip(ends["BN"], ends["noisy BN"], ends["plain"], strict=True))
display(Markdown(
    f"Loss in the last ten of {STEPS} steps: " + "; ".join(f"**{a}** {figures.spread(e, 2)}" for a, e in ends.items())
    + f". The noisy net ends above BN and below the plain net in {between} of {len(SEEDS)} seeds. "
    f"He's init alone brings the plain net from {fmean(ends['plain']):.2f} to {fmean(ends['plain, He init']):.2f} on "
    f"average: from {min(ends['plain, He init']):.2f} in its best seed to {max(ends['plain, He init']):.2f} in its "
    f"worst. Its curve jumps up by more than 0.2 within ten steps in {jumps['plain, He init']} of {len(SEEDS)} seeds, "
    f"that of BN in {jumps['BN']}."))

# %% [markdown]
# Two lessons. The noise costs something, yet the noisy net is much closer to BN than to the plain net: *measured*, and
# the same as the paper *reports* for VGG, a convolutional net, on CIFAR-10. And a good part of "BN against plain" is "a
# good start against a bad one": with He's init the plain net learns fast as well, though not as steadily at this
# learning rate (the jumps are counted above). Curves that compare BN with an arbitrary plain net prove little.
#
# With Tanh, for which the course's init is a good one, the plain net is a much stronger opponent:

# %% tags=["nbval-ignore-output"]
tanh = {arm: last([descend(build(arm, seed, "tanh"), LR, seed, STEPS) for seed in SEEDS])
        for arm in ("plain", "BN", "noisy BN")}
rows = [("loss of the last ten steps", *tanh), ("relu", *(figures.spread(ends[arm], 2) for arm in tanh)),
        ("tanh", *(figures.spread(e, 2) for e in tanh.values()))]
worse = sum(n > p for n, p in zip(tanh["noisy BN"], tanh["plain"], strict=True))
gap = {"ReLU": fmean(ends["plain"]) - fmean(ends["BN"]), "Tanh": fmean(tanh["plain"]) - fmean(tanh["BN"])}
display(Table(rows), Markdown(f"The plain net ends above BN by {gap['ReLU']:.2f} with ReLU and by {gap['Tanh']:.2f} "
                              f"with Tanh. There the noisy net ends above the plain one in {worse} of {len(SEEDS)} "
                              "seeds."))

# %% [markdown]
# ## 1. Is it internal covariate shift?
#
# **Intuition.** While layer 5 learns, layers 1 to 4 learn as well. So the inputs of layer 5 change their distribution
# in every step. Ioffe and Szegedy called this *internal covariate shift* and proposed BN to reduce it: BN fixes mean
# and variance of each layer's pre-activation.
#
# **The definition that can be measured** (Santurkar et al. 2018, Definition 2.1). What matters to layer $i$ is whether
# its *gradient* changes when the layers below it move. With $W' = W - \eta\,\nabla L(W)$, all layers at once:
#
# $$ G_i = \nabla_{W_i} L(W_1, \dots, W_{i-1}, W_i, \dots, W_k), \qquad
# G'_i = \nabla_{W_i} L(W'_1, \dots, W'_{i-1}, W_i, \dots, W_k), $$
#
# on the same mini-batch. The shift of layer $i$ is $\|G'_i - G_i\|$.
#
# **Exercise 2.1.** Write this probe for any list of layers. `gradient` is given: a function of the list of all weights.

# %%
ex = exercise("2.1")


def covariate_shift(gradient, layers, step):
    """||G'_i - G_i|| for every layer, first to last.

    layers: list of tensors W_1 ... W_k; gradient(layers): list of the gradients of one mini-batch's loss, one a layer.
    """
    raise NotImplementedError


ex.check(covariate_shift)

# %% [markdown]
# `ex.hint()`, `ex.hint(2)` and so on help in steps; `ex.solution()` shows one way. Where an exercise is not solved, the
# course's own solution stands in, and says so. The cell below gives the probe a real net. It is compared with the
# library's `shift.internal`, which treats each module's parameters as a layer.

# %%
my_shift = ex.use(covariate_shift)


def weights_and_gradient(net, batch):
    """(weight matrices of the net, function of such a list -> gradients of the batch's loss), batch statistics.

    The noise, where a layer has some, is the same at every call: it belongs to the mini-batch.
    """
    net = copy.deepcopy(net).train()
    named = {name: p.detach() for name, p in net.named_parameters() if p.dim() > 1}

    def gradient(weights):
        weights = [w.detach().clone().requires_grad_() for w in weights]
        torch.manual_seed(0)
        output = torch.func.functional_call(net, dict(zip(named, weights, strict=True)), batch[0])
        return list(torch.autograd.grad(F.cross_entropy(output, batch[1]), weights))

    return list(named.values()), gradient


net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 5, bias=False), nn.Tanh(),
                    nn.Linear(5, 3, bias=False)).double()
batch = (torch.randn(20, 4, dtype=torch.float64), torch.randint(0, 3, (20,)))
weights, gradient = weights_and_gradient(net, batch)
library = shift.internal(net, F.cross_entropy, batch, statistics="batch", step=0.5)
ours = torch.tensor([float(s) for s in my_shift(gradient, weights, 0.5)])
theirs = torch.tensor([s.difference for s in library.layers.values()])
print("equal to the library's:", torch.allclose(ours, theirs, rtol=1e-6))

# %% [markdown]
# **Measurement.** A gradient twice as long shifts twice as far. So the shift of each layer is divided by $\|G_i\|$
# before arms are compared; 0 means that the gradient stayed, 1 that it moved by its own length. Mean over the hidden
# layers but the first, one fixed mini-batch, one step of the training's own learning rate. Only the weight matrices
# move here; biases, $\gamma$ and $\beta$ stay.

# %% tags=["nbval-ignore-output"]
batch = next(gradients.draw(digits, batch_size=128, seed=99))


def relative_shift(net):
    weights, gradient = weights_and_gradient(net, batch)
    shifts = my_shift(gradient, weights, LR)
    return fmean(float(s) / float(g.norm()) for s, g in list(zip(shifts, gradient(weights), strict=True))[1:-1])


TIMES = (0, 10, 40, 100)
moved = {arm: [[(t, relative_shift(kept[t])) for t in TIMES] for _, kept in group] for arm, group in trained.items()}
display(figures.traces(moved, x="training step", y="relative covariate shift", levels={"its own length": 1.0}))
at = {arm: [[curve[i][1] for curve in group] for i in range(len(TIMES))] for arm, group in moved.items()}
display(Table([("relative covariate shift", *(f"after {t} steps" for t in TIMES)),
               *((arm, *(figures.spread(values, 2) for values in rows)) for arm, rows in at.items())]))
orders = (sorted(at, key=lambda arm: fmean(at[arm][i])) for i in range(len(TIMES)))
display(Markdown("The arms in the order of their means, smallest first. " + " ".join(
    f"After {t} steps: {' < '.join(order)}." for t, order in zip(TIMES, orders, strict=True))))

# %% [markdown]
# At the start BN has *more* internal covariate shift than the plain net with either init. The plain net with small
# weights shifts little then for a simple reason: its gradients are tiny, so a step moves nothing. In the middle of
# training the order is the other way round. After 40 steps the plain nets' gradients change by about their own length
# within one step, and BN's by less. Noisy BN is close to BN then, although its distributions are anything but stable.
# After 100 steps the picture is less clean (last column, and the line below the table). How far He's init has calmed
# down by then differs from run to run, with the same seeds as well, when the number of threads is another. So does
# the answer to whether noisy BN lies nearer to it or to BN.
#
# So two things that share a name come apart. *Distributions* that move: noisy BN has them and trains well. *Gradients*
# that move: with BN they move less than in the plain nets once training is under way. But the second is no longer about
# covariates. It asks how much a gradient changes along a step, and that is the subject of section 3.
#
# **What this does not show.** That distributions of activations never matter. That BN always, or never, reduces the
# shift of the gradients: here it depends on when you look. Santurkar et al. *report* that BN often does not reduce
# it.
#
# **What you should now believe.** "BN helps because it keeps the distributions of a layer's inputs stable" does not
# hold up in these nets (*measured*: a small net, digits, three seeds, one learning rate), nor in the larger ones of
# Santurkar et al. (*reported*). As a general explanation it is *folklore*.
#
# ## 2. What BN does to a gradient, exactly
#
# **Intuition.** A norm ignores a shift of its input, and a stretch. Directions that are ignored carry no gradient. So
# a gradient that passes down through a norm loses two of its $n$ components. What is left is rescaled by
# $\gamma/\sigma$.
#
# **Statement (proved).** For one channel, let $z \in \mathbb R^n$ be the norm's input over the mini-batch, $y = \gamma
# \hat z + \beta$ its output (with $\varepsilon = 0$ and $\sigma > 0$), and $G = \partial L/\partial y$ (a vector
# like $z$; the $G_i$ of section 1 are no longer needed). $\mathbf 1$ is the vector of ones. Then
#
# $$ \Big\|\frac{\partial L}{\partial z}\Big\|^2 = \frac{\gamma^2}{\sigma^2}\Big(\|G\|^2 - \frac1n\langle \mathbf 1,
# G\rangle^2 - \frac1n\langle \hat z, G\rangle^2\Big). $$
#
# This is Theorem 4.1 of Santurkar et al. 2018, where it stands as "$\le$", because they compare with the gradient of
# *another* net, one without the norm. With the norm's own output gradient it is an equality.
#
# **Proof.** Write $P = I - \frac1n\mathbf 1\mathbf 1^\top$. Then $\hat z = Pz/\sigma$ with $\sigma^2 = \|Pz\|^2/n$, so
# $\|\hat z\|^2 = n$. Differentiate: $d\sigma = \frac{1}{n\sigma}\langle Pz, dz\rangle = \frac1n\langle\hat z,
# dz\rangle$, and
#
# $$ d\hat z = \frac{P\,dz}{\sigma} - \frac{Pz}{\sigma^2}\,d\sigma = \frac1\sigma\Big(P - \frac1n\hat z\hat
# z^\top\Big)dz =: \frac1\sigma Q\,dz . $$
#
# $\mathbf 1/\sqrt n$ and $\hat z/\sqrt n$ are orthogonal unit vectors, so $Q$ is the orthogonal projection that removes
# both. It is symmetric, hence $\partial L/\partial z = \frac\gamma\sigma QG$. By Pythagoras $\|QG\|^2 = \|G\|^2 -
# \frac1n\langle\mathbf 1,G\rangle^2 - \frac1n\langle\hat z,G\rangle^2$. $\square$
#
# **Exercise 2.2.** Write the right side, for all channels at once.

# %%
ex = exercise("2.2")


def squared_gradient(z, above, gamma):
    """Squared norm of dL/dz per channel, [C], for y = gamma * zhat + beta, without eps.

    z: input of the norm [N, C]; above: dL/dy [N, C]; gamma: [C].
    """
    raise NotImplementedError


ex.check(squared_gradient)

# %% [markdown]
# **Check.** Autograd on the left, your formula on the right: through torch's layer and through our written-out one,
# with $\gamma \ne 1$ and channels of very different spread.

# %%
right_side = ex.use(squared_gradient)
gamma = torch.tensor([0.3, 1.0, 1.0, 2.5], dtype=torch.float64)
spreads = torch.tensor([0.1, 0.5, 2.0, 20.0], dtype=torch.float64)
z = (spreads * torch.randn(64, 4, dtype=torch.float64) + 1).requires_grad_()
above = torch.randn(64, 4, dtype=torch.float64)  # dL/dy of some loss
for name in ("batch_norm", "batch_norm_written_out"):
    norm = norms.get(name, 4, 1, eps=1e-40).double()
    norm.weight.data.copy_(gamma)
    (below,) = torch.autograd.grad(norm(z), z, above)
    left, right = below.square().sum(0), right_side(z.detach(), above, gamma)
    error = float((left / right - 1).abs().max())
    growth = ", ".join(f"{float(r):.3g}" for r in left / above.square().sum(0))
    print(f"{name}: equal to 12 digits: {error < 1e-12}; squared gradient below / above: {growth}")
print("gamma² / sigma²:", ", ".join(f"{float(r):.3g}" for r in (gamma / z.detach().std(0, correction=0)) ** 2))

# %% [markdown]
# Read the lists. In the first two channels $\sigma$ is smaller than $\gamma$. There the gradient *grows* on its way
# through the norm. In the last two $\sigma$ is larger than $\gamma$, and it shrinks. The two subtracted terms never
# make it larger; the factor $\gamma^2/\sigma^2$ does as it likes.
#
# **What this does not say.** The statement is about the gradient with respect to *activations* in one layer. It is not
# about weights, not about a whole net, and not about the speed of training. The step from "smaller gradients here" to
# "smoother loss" needs $\sigma > \gamma$, which nobody guarantees. Section 5 shows what happens where $\sigma < \gamma$
# in every layer.
#
# **What you should now believe.** The equality, without reservation (*proved*, checked to 12 digits). That BN
# makes the loss smoother does *not* follow from it.
#
# ## 3. Is the loss smoother? Probes along the gradient
#
# **Intuition.** Gradient descent trusts that the gradient here still says something there. Three numbers test that
# trust. From $w$, go to $w' = w - s\,g(w)$ for several steps $s$, and look at
#
# - the **loss** $L(w')$;
# - **gradient predictiveness**, $\|g(w') - g(w)\|$;
# - **effective smoothness**, the largest $\|g(w') - g(w)\| / \|w' - w\|$ over the steps. (The paper and the plots
#   say effective *beta-smoothness*. This beta is not the norm's $\beta$. A small value means a smooth loss.)
#
# If the gradient is Lipschitz with constant $\Lambda$, that is if $\|g(w') - g(w)\| \le \Lambda\|w' - w\|$ everywhere,
# then the effective smoothness is at most $\Lambda$ (*proved*: it is the definition). It is a lower bound, taken on one
# line.
#
# $L$ is the loss of one fixed mini-batch. The *same* mini-batch is used at $w$ and $w'$.
#
# **Exercise 2.3.** Write the third probe. `gradient` is a function of the weights, which are one tensor here.

# %%
ex = exercise("2.3")


def smoothness(gradient, w, steps):
    """max over the steps of ||g(w') - g(w)|| / ||w' - w||, w' = w - step * g(w).

    gradient(w): the gradient of one mini-batch's loss, of the shape of w; steps: list of positive numbers.
    """
    raise NotImplementedError


ex.check(smoothness)

# %%
my_smoothness = ex.use(smoothness)
spectrum = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)  # a quadratic: g(w) = spectrum * w, constant 5
on_quadratic = float(my_smoothness(lambda w: spectrum * w, torch.ones(3, dtype=torch.float64), [0.1, 0.3]))
print(f"quadratic with eigenvalues 1, 2, 5: {on_quadratic:.4f}, between 1 and 5")

net = build("BN", seed=0, hidden=2).double()
small = (batch[0][:32].double(), batch[1][:32])
shapes, flat = [p.shape for p in net.parameters()], nn.utils.parameters_to_vector(net.parameters()).detach()


def flat_gradient(w):
    parts = [p.view(s) for p, s in zip(w.split([s.numel() for s in shapes]), shapes, strict=True)]
    parts = {name: p.clone().requires_grad_() for (name, _), p in zip(net.named_parameters(), parts, strict=True)}
    loss = F.cross_entropy(torch.func.functional_call(net, parts, small[0]), small[1])
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parts.values()))])


steps = landscape.around(LR)
library = landscape.probe(net, F.cross_entropy, small, statistics="batch", steps=steps)
same = math.isclose(float(my_smoothness(flat_gradient, flat, steps)), library.whole.smoothness, rel_tol=1e-9)
print("on a net, equal to the library's probe:", same)

# %% [markdown]
# **Measurement.** The copies that were kept during training are probed now, with steps from half to four times the
# learning rate, as in the paper. Bands go from the smallest to the largest value on the line. Lines are means over
# seeds; on the right every seed is drawn.

# %% tags=["nbval-ignore-output"]
NEAR = landscape.around(LR, 6)


def probed(net, probe=landscape.probe, steps=NEAR):
    return probe(net, F.cross_entropy, batch, statistics="batch", steps=steps, per_layer=False)


records = {arm: {t: [probed(kept[t]) for _, kept in group] for t in KEEP} for arm, group in trained.items()}
display(figures.landscape_over_training(records))


def smooth(arm, t):
    return fmean(found.whole.smoothness for found in records[arm][t])


def rise(arm, t):
    """The largest change of the loss on the line, mean over seeds."""
    return fmean(max(found.whole.losses) - found.loss for found in records[arm][t])


first, middle, end = (KEEP[i] for i in (0, 4, -1))
display(Markdown(
    f"**Right.** Effective smoothness after {first}, {middle} and {end} steps: "
    + "; ".join(f"{arm} {', '.join(f'{smooth(arm, t):.1f}' for t in (first, middle, end))}" for arm in ARMS)
    + f".\n\n**Left.** After {middle} steps, going down the gradient changes the loss, at its worst, by "
    + "; ".join(f"{rise(arm, middle):+.2f} ({arm})" for arm in ARMS)
    + ".\n\n**Middle.** There the gradient moves, at most, by "
    + "; ".join(f"{fmean(max(found.whole.predictiveness) for found in records[arm][middle]):.1f} ({arm})"
                for arm in ARMS) + "."))

# %% [markdown]
# So the claim holds in this form (*measured*, three seeds): once training is under way, the loss of the nets with BN
# behaves well on the whole line, up to four times the learning rate, and that of the plain nets does not. The noisy net
# behaves like BN here, although its distributions are not stable. At the start there is no such advantage: BN and He's
# init begin alike, and the plain net with small weights looks smoothest of all. It is smooth because it is flat: its
# gradients have almost vanished (section 5 has the factor).
#
# **Look yourself.** The first slider chooses the moment of training, the second a step on the line. Predict before you
# move: at which step does the loss of the He net begin to rise? For which arm does the ratio on the right *fall* with
# the step, and what does that say about a quadratic model of its loss?

# %% tags=["nbval-ignore-output"]
widgets.landscape_explorer(records)

# %% [markdown]
# An answer to the last question: on a quadratic the ratio is the same at every step, as in the cell above. A ratio that
# falls says that the gradient changes early on the line and then levels off. No quadratic describes that.
#
# ### The scale problem
#
# **Statement (proved).** Let the loss not change when $w$ is multiplied by $a > 0$; weights in front of a norm are like
# that (with $\varepsilon = 0$). Then $g(aw) = g(w)/a$ and $\langle w, g(w)\rangle = 0$. With steps multiplied by $a^2$,
# gradient descent from $aw$ ends at $aw'$, and the raw smoothness there is divided by $a^2$.
#
# **Proof.** $L(aw) = L(w)$ for all $w$. Differentiate with respect to $w$: $a\,g(aw) = g(w)$. Differentiate with
# respect to $a$ instead, at $a = 1$: $\langle w, g(w)\rangle = 0$. A step $a^2 s$ from $aw$ leads to $aw - a^2
# s\,g(w)/a = a\,(w - s\,g(w)) = aw'$. There the gradient is $g(w')/a$. So the change of the gradient is divided by $a$,
# the distance is multiplied by $a$, and their ratio is divided by $a^2$. $\square$
#
# So the raw numbers above can be set at will by the size of the initial weights, without changing what the net computes
# and *without changing the path of training*, if the learning rate of these weights is scaled along. A scale-free
# version measures in $u = w/\|w\|$, tensor by tensor; its steps are *effective* learning rates $\eta/\|w\|^2$ (van
# Laarhoven 2017).

# %%
net = build("BN", seed=0).double()
for module in net.modules():
    if isinstance(module, nn.BatchNorm1d):
        module.eps = 1e-30  # eps is the one thing that knows the scale
rows = [("weights of hidden layer 2 times", "learning rate times", "raw smoothness of that layer", "scale-free")]
for factor in (1, 10):
    net[2].weight.weight.data *= factor
    raw, free = (probe(net, F.cross_entropy, (batch[0].double(), batch[1]), statistics="batch", steps=[step])
                 for probe, step in ((landscape.probe, 0.1 * factor**2), (landscape.probe_scale_free, 1e-3)))
    rows.append((factor, factor**2, *(f"{found.layers['2.weight'].smoothness:.4g}" for found in (raw, free))))
Table(rows)

# %% [markdown]
# The comparison of section 3 once more, at one moment, raw and scale-free. The plain net's weights are not
# scale-invariant, so for it both are just two ways to measure.

# %% tags=["nbval-ignore-output"]
rows, free, raws = [(f"after {middle} steps", "raw smoothness", "scale-free smoothness")], {}, {}
for arm, group in trained.items():
    scale_free = [probed(kept[middle], landscape.probe_scale_free, landscape.around(1e-3, 6)) for _, kept in group]
    free[arm] = [found.whole.smoothness for found in scale_free]
    raws[arm] = [found.whole.smoothness for found in records[arm][middle]]
    rows.append((arm, figures.spread(raws[arm]), figures.spread(free[arm], 0)))
ratio = fmean(free["plain"]) / fmean(free["BN"])
orders = [sorted(ARMS, key=lambda arm: fmean(column[arm])) for column in (raws, free)]
display(Table(rows), Markdown(
    f"Raw, plain and BN differ by a factor of {smooth('plain', middle) / smooth('BN', middle):.1f}; scale-free, with "
    f"effective steps around 0.001, by {ratio:.1f}. The order of the arms is "
    f"{'the same' if orders[0] == orders[1] else 'not the same'} in both columns. Neither is *the* smoothness."))

# %% [markdown]
# ### What is commonly done wrong
#
# Four short cuts that are easily taken for "the landscape", each beside the real thing on the same BN net, after
# twenty steps:
#
# 1. **Gradients of consecutive training steps.** They belong to *different* mini-batches. Their difference is mostly
#    noise and does not go away when the step does.
# 2. **No division** by the distance. Then a longer gradient looks like a rougher loss.
# 3. **The last layer only**, because it is cheap.
# 4. **The envelope** over nets trained with different learning rates: that compares different places.

# %% tags=["nbval-ignore-output"]
net, other = trained["BN"][0][1][20], next(gradients.draw(digits, batch_size=128, seed=100))
weights, gradient = weights_and_gradient(net, batch)
_, other_gradient = weights_and_gradient(net, other)


def length(tensors):
    return math.sqrt(sum(float(t.square().sum()) for t in tensors))


start = gradient(weights)
rows = [("step", "same mini-batch, not divided", "same, divided", "next mini-batch, divided (wrong)")]
for s in (0.1, 0.01, 0.001):
    ends_at = [w - s * g for w, g in zip(weights, start, strict=True)]
    change = length([a - b for a, b in zip(gradient(ends_at), start, strict=True)])
    noise = length([a - b for a, b in zip(other_gradient(ends_at), start, strict=True)])
    distance = s * length(start)
    rows.append((f"{s:g}", f"{change:.3f}", f"{change / distance:.1f}", f"{noise / distance:.1f}"))
display(Table(rows))

tanh_net = descend(build("BN", 0, "tanh"), LR, 0, 20, (20,))[1][20]
ratios = probed(tanh_net, steps=(0.1, 0.01, 0.001)).whole.ratios
layered = landscape.probe(net, F.cross_entropy, batch, statistics="batch", steps=landscape.around(LR, 6))
head, weight_layers = list(layered.layers)[-1], [name for name in layered.layers if name.endswith("weight")]
sharpest = max(weight_layers, key=lambda name: layered.layers[name].smoothness)
line = probed(net).whole.losses
at_twenty = [descend(build("BN", 0), lr, 0, 20)[0][-1] for lr in (LR / 2, LR, 2 * LR, 4 * LR)]
display(Markdown(
    f"**1, 2.** With the wrong mini-batch the ratio explodes as the step shrinks: it measures noise over nothing. "
    f"Without division the number shrinks with the step: it measures the step. "
    f"**3.** The last layer alone gives {layered.layers[head].smoothness:.1f}, hidden layer {sharpest.split('.')[0]} "
    f"alone {layered.layers[sharpest].smoothness:.1f}, all parameters {layered.whole.smoothness:.1f}. "
    f"**4.** On the line the loss runs from {min(line):.2f} to {max(line):.2f}. Nets trained for twenty steps with "
    f"learning rates in the same range end between {min(at_twenty):.2f} and {max(at_twenty):.2f}: another quantity.\n\n"
    f"For comparison, *same, divided* for a BN net with Tanh: {', '.join(f'{ratio:.1f}' for ratio in ratios)}."))

# %% [markdown]
# One more thing is in the table: even the right ratio grows as the step shrinks. With Tanh it settles (last line). So
# it is ReLU's kinks (*measured*: one seed): many pre-activations lie near 0, a short step still carries some of them
# across, and there the gradient jumps. Strictly, the gradient of a ReLU net is *not* Lipschitz. An effective smoothness
# is a number for a stated range of steps, and for no other.
#
# **What you should now believe.** During training, BN's loss is better behaved along the gradient, up to steps of four
# times the learning rate (*measured*: this net, three seeds; *reported*: VGG). At the start it is not smoother in
# the raw sense. Smoothness without a statement about scale is half a statement. And *better behaved on the line* and
# *trains faster* occurred together; that the one causes the other is not shown by that.
#
# ## 4. Larger learning rates
#
# **Intuition.** If the loss is well behaved on longer steps, longer steps can be taken. Bjorck et al. (2018) hold that
# this is the main benefit of BN: with the learning rate that a plain net tolerates, BN helps little (*reported*).
#
# **Measurement.** Loss after 40 steps, against the learning rate. A run that diverges, or ends above the loss of
# guessing, $\ln 10$, counts as $\ln 10$.

# %% tags=["nbval-ignore-output"]
RATES, CHANCE = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0), math.log(10)


def final_loss(arm, lr, seed):
    losses, _ = descend(build(arm, seed), lr, seed, 40)
    loss = fmean(losses[-5:])
    return min(loss, CHANCE) if math.isfinite(loss) else CHANCE


sweep = {arm: [[(lr, final_loss(arm, lr, seed)) for lr in RATES] for seed in SEEDS]
         for arm in ("plain", "plain, He init", "BN")}
display(figures.traces(sweep, x="learning rate", y="loss after 40 steps (nats)", log_x=True,
                       levels={"guessing": CHANCE}))


def mean_at(arm, lr):
    return fmean(dict(curve)[lr] for curve in sweep[arm])


best = {arm: min(RATES, key=lambda lr: mean_at(arm, lr)) for arm in sweep}
usable = {arm: [lr for lr in RATES if max(dict(c)[lr] for c in sweep[arm]) < CHANCE / 2] for arm in sweep}
display(Markdown("; ".join(
    f"**{arm}**: best at {best[arm]:g} (loss {mean_at(arm, best[arm]):.2f}), below half the loss of guessing in all "
    f"seeds at {', '.join(f'{lr:g}' for lr in usable[arm]) or 'no rate'}" for arm in sweep)
    + ".\n\nBN against He's init, mean loss: " + "; ".join(
        f"{mean_at('BN', lr):.2f} and {mean_at('plain, He init', lr):.2f} at {lr:g}" for lr in RATES[:4]) + "."))

# %% [markdown]
# On the left BN and He's init lie on top of each other: with small steps BN brings nothing here that a good init does
# not. The gap opens where the steps become large. That is what Bjorck et al. report.
#
# **A caveat: what is a learning rate under BN?** By the statement of section 3 the gradient is orthogonal to the
# weights. So with the step $\eta$, by Pythagoras, $\|w'\|^2 = \|w\|^2 + \eta^2\|g\|^2$ (*proved*): the weights can only
# grow, and the effective learning rate $\eta/\|w\|^2$ can only fall. A learning rate that is too large lengthens the
# weights until it no longer is. Tolerating large learning rates is, in part, this automatic brake (*reported*: van
# Laarhoven 2017; weight decay is what releases it).

# %%
net = build("BN", seed=0).double()
for module in net.modules():
    if isinstance(module, nn.BatchNorm1d):
        module.eps = 1e-30
w = net[2].weight.weight
loss = F.cross_entropy(net(batch[0].double()), batch[1])
(g,) = torch.autograd.grad(loss, w)
cosine = float(((w * g).sum() / (w.norm() * g.norm())).detach())
print(f"gradient orthogonal to the weights: {abs(cosine) < 1e-10}")
for lr in (0.1, 3.0):
    after = w.detach() - lr * g
    grown = float(after.square().sum() / w.detach().square().sum())
    print(f"learning rate {lr:g}: one step multiplies ||w||² by {grown:.4f}, so the effective rate by {1 / grown:.4f}")

# %% tags=["nbval-ignore-output"]
def squared(net):
    """||W||² of hidden layer 2."""
    return float(net[2].weight.weight.detach().square().sum())


rows, effective = [("learning rate", "||W||² before", "after 40 steps", "effective rate at the end")], []
for lr in (0.1, 1.0, 3.0):
    net = build("BN", seed=0)
    before = squared(net)
    descend(net, lr, 0, 40)
    effective.append(lr / squared(net))
    rows.append((f"{lr:g}", f"{before:.1f}", f"{squared(net):.1f}", f"{effective[-1]:.4f}"))
display(Table(rows), Markdown("The nominal rates differ by a factor of 30. The effective ones at the end differ by "
                              f"{effective[-1] / effective[0]:.1f}."))

# %% [markdown]
# **What you should now believe.** BN nets tolerate larger learning rates and a wider range of them (*measured* here,
# *reported* there). Part of that tolerance is the growth of scale-invariant weights (*proved* for one step, *measured*
# over forty).
#
# ## 5. The other side: gradients explode with depth
#
# **Intuition.** Take the equality of section 2, layer after layer. A **block** is a weight layer, a norm and an
# activation. A ReLU lets half of the squared gradient through.
# But the norm below it divides by $\sigma^2$, and the variance of what it receives is *less* than a half. So the
# gradient grows on its way down.
#
# **Statement (proved, in a limit).** Consider a deep net of equal blocks at initialization, weights independent with
# mean 0 and variance $1/\text{fan-in}$, one norm with $\gamma = 1$, $\beta = 0$ in each block. Assume: (a) the width is
# infinite, so that pre-activations are normal; (b) the mini-batch is infinite; (c) the gradient that arrives at a
# layer is independent of that layer's forward signal (the usual assumption of mean-field theory). Then going down one
# block multiplies the expected squared gradient by
#
# $$ \rho(f) = \frac{\mathbb E f'(z)^2}{\operatorname{Var} f(z)}, \qquad z \sim \mathcal N(0, 1), $$
#
# *wherever the norm stands in the block*, if $f$ is not constant. And $\rho(f) \ge 1$, with equality only if $f$ is a
# straight line.
#
# **Proof.** The rate. Three things happen on the way down.
#
# - The activation multiplies each component by $f'(z)$. By (c) the squared gradient is multiplied by $\mathbb E
#   f'(z)^2$. With the norm before $f$, $z$ is standardized directly. With the norm behind $f$, the weights act on a
#   standardized signal, and variance $1/\text{fan-in}$ hands on the variance 1. In both cases $z\sim\mathcal N(0,1)$.
# - The weights: $\mathbb E\|W^\top\delta\|^2 = \|\delta\|^2$ for a square $W$ with variance $1/\text{fan-in}$.
# - The norm, by section 2: the two subtracted terms are 2 of $n$ dimensions, which vanishes by (b). The factor
#   $1/\sigma^2$ remains. Behind $f$ the norm sees $f(z)$, so $\sigma^2 = \operatorname{Var} f(z)$. Before $f$, behind
#   the weights, it sees $Wf(z)$, whose variance over the batch is on average the same.
#
# The inequality. Expand $f = \sum_k a_k h_k$ in normalized Hermite polynomials, which are orthonormal under $\mathcal
# N(0,1)$ with $h_k' = \sqrt k\,h_{k-1}$. Then $\operatorname{Var} f = \sum_{k\ge1} a_k^2$ and $\mathbb E f'^2 =
# \sum_{k\ge1} k\,a_k^2$. As $k \ge 1$, the second is at least the first. They are equal only if $a_k = 0$ for all
# $k\ge2$, that is if $f(z) = a_0 + a_1 z$. $\square$
#
# For ReLU: $\mathbb E f'^2 = \frac12$ and $\operatorname{Var} f = \frac12 - \frac1{2\pi}$, so $\rho = \pi/(\pi-1)$.
# Yang et al. (2019) treat finite mini-batches as well and *report* 1.480 for ReLU at a batch of 128.
#
# **Exercise 2.4.** Work out $\rho$ for leaky ReLU: $f(z) = z$ for $z > 0$ and $az$ otherwise, with the slope $a$.

# %%
ex = exercise("2.4")


def growth_of_leaky_relu(slope):
    """E f'(z)² / Var f(z) for z ~ N(0, 1) and f(z) = z for z > 0, slope * z otherwise."""
    raise NotImplementedError


ex.check(growth_of_leaky_relu)

# %%
rate_of = ex.use(growth_of_leaky_relu)
activations.register("leaky_relu", lambda: nn.LeakyReLU(0.01))
print(f"leaky ReLU, slope 0.01: formula {rate_of(0.01):.6f}, by quadrature {depth.predicted('leaky_relu'):.6f}")
print(f"ReLU: {depth.predicted('relu'):.6f}, pi / (pi - 1) = {math.pi / (math.pi - 1):.6f}")
print(", ".join(f"slope {a:g}: {rate_of(a):.3f}" for a in (-1.0, 0.0, 0.3, 0.7, 1.0)))

# %% [markdown]
# **Measurement.** Both orders, five activations: 25 blocks of width 300, mini-batch 128, three seeds, with the norms on
# batch statistics.

# %% tags=["nbval-ignore-output"]
FIVE = ("relu", "tanh", "sigmoid", "selu", "swish")
found = {(f, p): depth.growth(f, p, statistics="batch", width=300, seeds=SEEDS) for f in FIVE
         for p in ("before", "after")}
rows = [("activation", "predicted", "norm before f", "norm behind f", "through 25 blocks (before)")]
for f in FIVE:
    before, behind = found[f, "before"].rate, found[f, "after"].rate
    rates = (depth.predicted(f), before.value, behind.value)
    rows.append((f, *(f"{rate:.3f}" for rate in rates), f"{before.value**25:,.0f}"))
display(Table(rows))

arms = {p: found["relu", p] for p in ("before", "after")}
for p in ("none", "complete"):
    arms[p] = depth.growth("relu", p, statistics="batch", width=300, seeds=SEEDS)
display(figures.gradient_growth(arms, predicted=depth.predicted("relu")))
running = depth.growth("relu", "before", statistics="running", width=300, seeds=SEEDS)
above_one = sum(growth.rate.value > 1 for growth in found.values())
off = {pair: abs(growth.rate.value / depth.predicted(pair[0]) - 1) for pair, growth in found.items()}
worst = max(off, key=off.get)
display(Markdown(
    f"The rate exceeds 1 in {above_one} of {len(found)} cases. **Swapping the order does not cure it**: for ReLU "
    f"{found['relu', 'before'].rate.value:.3f} becomes {found['relu', 'after'].rate.value:.3f}. Nor does our "
    f"reconstruction of CBN, `complete`, which starts out as a norm behind f: {arms['complete'].rate.value:.3f}. "
    f"Without a norm the factor is "
    f"{arms['none'].rate.value:.3f} a block with this init: the gradient shrinks. With running statistics in place of "
    f"the mini-batch's own the rate is {running.rate.value:.3f}. Neither width nor batch is infinite here: the largest "
    f"distance from the prediction is {100 * off[worst]:.1f} % ({worst[0]}, `{worst[1]}`)."))

# %% [markdown]
# With running statistics nothing is differentiated through the statistics, and the rate is nearly the same. So it is
# the division by $\sigma$ that makes the gradient grow. Without a norm signal and gradient both shrink with this init:
# that is the flat start of the plain net in section 3.
#
# ReLU has the *largest* rate of the five and Sigmoid the smallest. With vanilla BN ReLU trains best and Sigmoid worst
# (notebook 06, *measured*). So this growth, too, is not the whole story. It is a statement about initialization. What
# it means for training is that the first layers of a deep net get squared gradients that are larger by the factor in
# the last column, so that one learning rate cannot suit all layers. Yang et al. *report* that such nets cannot be
# trained at great depth without shortcuts, and that it helps to keep the activations near their linear part. The
# formula says why: there the rate is near 1.
#
# **What you should now believe.** With one norm per block and a nonlinear activation, gradients grow with depth at
# initialization, in either order (*proved* in the limit, *measured* at width 300). BN is not a cure for
# exploding gradients. It trades vanishing signals for growing gradients.
#
# ## 6. Further caveats from the literature
#
# - **Which layer matters.** The Fisher matrix is the mean of $gg^\top$ over samples, with labels drawn from the net's
#   own output; near a minimum it measures curvature. In wide nets, BN in the *hidden* layers hardly lowers its largest
#   eigenvalue; BN in the *last* layer does (Karakida, Akaho and Amari 2019, *reported*, for random weights).
# - **Sharpness depends on scale.** Any measure in raw weights can be changed by rescaling (*proved*, section 3;
#   *reported* for plain ReLU nets too, Dinh et al. 2017).
# - **Noise.** BN makes a sample's output depend on the others in its mini-batch. That this noise helps against
#   overfitting is *reported* (Ioffe and Szegedy 2015). None of the probes here looks at it.
# - **One step is not a trajectory.** All probes look at one mini-batch and one line. The proof in notebook 03 names the
#   quantities that bound the speed of SGD: the Lipschitz constant, the second moment of the gradient, its variance.
#   Notebook 04 measures these three.
#
# ## Summary
#
# | claim | label |
# |---|---|
# | a gradient that passes down a norm loses two directions and is multiplied by $\gamma/\sigma$ | proved, section 2 |
# | scale-invariant weights: gradient orthogonal, raw curvature arbitrary, $\|w\|$ grows | proved, sections 3 and 4 |
# | with ReLU, noisy BN trains more like BN than like the plain net, on unstable distributions | measured: three seeds |
# | with Tanh and a fitting init, plain and BN are much closer than with ReLU | measured, the same setting |
# | BN has a smaller internal covariate shift, by its definition for gradients | measured: not at the start, later yes |
# | "BN helps because it keeps the distributions of layer inputs stable" | folklore; does not hold up here |
# | with BN the loss behaves better along the gradient during training | measured here, reported for VGG |
# | BN tolerates larger learning rates; with small ones a good init does as well | measured, reported (Bjorck) |
# | gradients grow with depth through norms, in either order | proved in a limit, measured at width 300 |
# | any one of these *is* the reason why BN helps | open |
#
# ## Exercises
#
# You met exercises 2.1 to 2.4 on the way. Three more, without a checker:
#
# - **Change the noise.** Make it ten times as large. At which size does the noisy net fall behind He's init? Does the
#   covariate shift follow?
# - **An honest opponent.** Find the plain net that is hardest to beat: init, learning rate, activation. Write down
#   beforehand by which margin BN must win, and over how many seeds.
# - **Cure the growth.** Scale $\gamma$ so that the rate of section 5 is 1 for ReLU. What happens to the signal? (Try it
#   with `depth.profile`.)
#
# ## Going further
#
# - Notebook 03 proves how three numbers bound the speed of SGD. Notebook 04 measures them.
# - `cbn_lab.probes` has the probes of this notebook, for any model: `shift`, `landscape`, `depth`, and `gradients` and
#   `curvature` beside them.
# - The same probes on a convolutional net: `models.build("convnet", ...)`, `landscape.probe(..., per_layer=True)`.
#
# ## References
#
# - S. Ioffe, C. Szegedy, *Batch Normalization*, ICML 2015, arXiv:1502.03167.
# - S. Santurkar, D. Tsipras, A. Ilyas, A. Madry, *How Does Batch Normalization Help Optimization?*, NeurIPS 2018,
#   arXiv:1805.11604.
# - J. Bjorck, C. Gomes, B. Selman, K. Weinberger, *Understanding Batch Normalization*, NeurIPS 2018, arXiv:1806.02375.
# - G. Yang, J. Pennington, V. Rao, J. Sohl-Dickstein, S. Schoenholz, *A Mean Field Theory of Batch Normalization*, ICLR
#   2019, arXiv:1902.08129.
# - R. Karakida, S. Akaho, S. Amari, *The Normalization Method for Alleviating Pathological Sharpness in Wide Neural
#   Networks*, NeurIPS 2019, arXiv:1906.02926.
# - T. van Laarhoven, *L2 Regularization versus Batch and Weight Normalization*, 2017, arXiv:1706.05350.
# - K. He, X. Zhang, S. Ren, J. Sun, *Delving Deep into Rectifiers* (the init), ICCV 2015, arXiv:1502.01852.
# - L. Dinh, R. Pascanu, S. Bengio, Y. Bengio, *Sharp Minima Can Generalize for Deep Nets*, ICML 2017, arXiv:1703.04933.
# - E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998.
