# %% [markdown]
# # Measuring the three effects: how large are they on a real network?
#
# Notebook 03 proves that three numbers limit the speed of SGD: the Lipschitz constant $L$ of the gradient, the second
# moment $\mathbb E\|g\|^2$ of the stochastic gradient, and its variance. Peng, Yu and Yu (2024) *report* that
# batch normalization (BN) works because it makes all three smaller, with ReLU only, and that their complete batch
# normalization (CBN) makes them smaller with any activation.
#
# Can one see this? This notebook measures the three numbers on real networks. There are several ways to fool oneself,
# and most of the work is to avoid them. What disagrees with the abstract is said as plainly as what agrees.
#
# **Our CBN is a reconstruction** that is consistent with the abstract; the abstract is all that was known to us.
#
# **You will be able to**
# 1. estimate the moments of a stochastic gradient without bias (section 2, exercise 4.1);
# 2. say what rescaled weights do to the three numbers, and make numbers that do not care (section 3, exercises 4.2
#    and 4.3);
# 3. compare two runs at matched loss and at matched step (section 4, exercise 4.4);
# 4. judge a claim by a rule that was written down first, also where the outcome is unwelcome (sections 5 and 6,
#    exercise 4.5).
#
# **Time:** about 40 minutes without the exercises. The cells take about a minute of it on two CPU cores.
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
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from IPython.display import Markdown, display

from cbn_lab import data, effects, figures, models, widgets
from cbn_lab import effects_evidence as evidence
from cbn_lab.exercises import exercise
from cbn_lab.figures import Table
from cbn_lab.probes import curvature, gradients
from cbn_lab.probes.effects import three_effects

# %% [markdown]
# ## Notation
#
# | symbol | meaning |
# |---|---|
# | $w$ | all weights and other trained parameters; $W_\ell$ the weights of layer $\ell$ |
# | $B$ | a random mini-batch of fixed size |
# | $F(w)$ | $\mathbb E_B$ of the loss of $B$ at $w$, in train mode: each norm uses the statistics of $B$ |
# | $g$ | stochastic gradient: gradient of the loss of one mini-batch; $\mathbb E g = \nabla F$ |
# | $\mathrm{Var}[g]$ | $\mathbb E\|g-\mathbb E g\|^2$, the trace of its covariance |
# | $L$ | here: largest eigenvalue of the Hessian, at $w$, of the loss of one mini-batch (in the records: of two) |
# | $\alpha$ | step size of SGD |
# | none, before, after, complete | no norm; vanilla BN; BN behind the activation; our reconstruction of CBN |
#
# ## 1. Three numbers of one network
#
# **Intuition.** SGD takes a step $w - \alpha g$. If the loss were a straight slope, the step would win
# $\alpha\|\nabla F\|^2$. Two things take some of that back: the slope turns ($L$), and the step is long, in part by
# chance ($\mathbb E\|g\|^2$, $\mathrm{Var}[g]$).
#
# **Statement (proved in notebook 03; Bottou, Curtis and Nocedal 2018).** If the gradient of $F$ has Lipschitz constant
# $L$,
# $$\mathbb E\,F(w-\alpha g) - F(w) \le -\alpha\|\nabla F\|^2+\tfrac12\alpha^2 L\,\mathbb E\|g\|^2,
# \qquad \mathbb E\|g\|^2=\|\nabla F\|^2+\mathrm{Var}[g].$$
#
# The $L$ of the proof holds everywhere at once. What can be measured is the curvature *here*: the largest eigenvalue of
# the Hessian at the present weights. For one function it is a lower bound of the proof's $L$, and it is what the next
# small step meets. The probe takes the loss of *one* mini-batch for that function, not $F$. The largest eigenvalue of a
# mean is at most the mean of the largest eigenvalues, so on average this is not below that of $F$'s Hessian: it is no
# bound of the $L$ of $F$ on either side.
#
# The probe does all three at once. It takes 50 independent mini-batches, leaves the network exactly as it was, and
# counts what it cost. `statistics="batch"` means train mode; there is no default, since the two answers differ.

# %%
digits = data.load("digits", "train")
torch.manual_seed(0)
model = models.build("convnet", num_classes=10, in_channels=1, image_size=8, activation="relu",
                     placement="before", widths=[16, 16, 32, 32]).double()
batches = list(gradients.draw(digits, batch_size=64, count=50, dtype=torch.float64))
found = three_effects(model, F.cross_entropy, batches, statistics="batch")
Table([("ReLU, vanilla BN, before training", "raw", "scale-free"),
       ("L", f"{found.raw.L:.3g}", f"{found.scale_free.L:.3g}"),
       ("E‖g‖²", found.raw.second, found.scale_free.second),
       ("Var[g]", found.raw.variance, found.scale_free.variance),
       ("gradient evaluations", found.gradient_evaluations, "")])

# %% [markdown]
# In brackets: 95 % confidence intervals over the mini-batches. $L$ is that of one mini-batch, found by Hessian-vector
# products; a product costs about three gradients. What *scale-free* means is the subject of section 3.
#
# **On CIFAR-10** the same takes longer. Set `CIFAR` to `True` if you have the data. It is the default network at full
# size. The cell prints how long it took; `cbn-lab bench --only probes` measures it properly.

# %% tags=["nbval-ignore-output"]
CIFAR = False
if CIFAR:
    cifar = data.load("cifar10", "train")
    net = models.build("convnet", num_classes=10, activation="relu", placement="before")
    started = time.perf_counter()
    print(three_effects(net, F.cross_entropy, gradients.draw(cifar, batch_size=128), statistics="batch"))
    print(f"took {time.perf_counter() - started:.0f} s")
else:
    print("not measured: CIFAR is False")

# %% [markdown]
# ## 2. Moments of a gradient, without bias
#
# **Intuition.** A stochastic gradient is a random vector. We see $n$ draws of it. The mean of the draws still contains
# noise, so its length is too large: with pure noise, $\mathbb E g=0$, the mean of the draws is not 0.
#
# **Statement (proved).** For independent draws $g_1,\dots,g_n$ with mean $\bar g$:
# $$\mathbb E\|\bar g\|^2=\|\mathbb E g\|^2+\tfrac1n\mathrm{Var}[g].$$
#
# **Proof.** $\mathbb E\|\bar g\|^2=\frac1{n^2}\sum_{i,j}\mathbb E\langle g_i,g_j\rangle$. For $i\ne j$ the draws are
# independent, so $\mathbb E\langle g_i,g_j\rangle=\langle\mathbb E g_i,\mathbb E g_j\rangle=\|\mathbb E g\|^2$; there
# are $n(n-1)$ such pairs. For $i=j$ it is $\mathbb E\|g\|^2=\|\mathbb E g\|^2+\mathrm{Var}[g]$; there are $n$. Add up:
# $\frac1{n^2}\big(n^2\|\mathbb E g\|^2+n\,\mathrm{Var}[g]\big)$. $\square$
#
# The pairs $i=j$ make the bias. Leave them out, and it is gone.
#
# **Exercise 4.1** Write the probe behind effects (ii) and (iii): from $n$ independent draws, one per row, estimate
# $\mathbb E\|g\|^2$, $\|\mathbb E g\|^2$ and $\mathrm{Var}[g]$, each without bias. Then the first is exactly the sum
# of the other two.

# %%
ex = exercise("4.1")


def gradient_moments(gradients):
    """(E||g||², ||E g||², Var[g]), each unbiased, from independent draws; gradients is [n, p], one draw a row."""
    raise NotImplementedError


ex.check(gradient_moments)

# %% [markdown]
# `ex.hint()`, `ex.hint(2)` and so on help in steps; `ex.solution()` shows one way. Where an exercise is not solved, the
# reference stands in from here on, so the cells below run either way.
#
# Now on a real network: train the net of section 1 for 40 steps, take the gradients of the mini-batches, and compare
# with the library's probe. How wrong is the plug-in $\|\bar g\|^2$? That depends on $n$ and on how much of the gradient
# is noise; the table has three values of $n$.

# %%
moments = ex.use(gradient_moments)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for images, labels in gradients.draw(digits, batch_size=64, count=40, seed=1, dtype=torch.float64):
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def gradient(batch):
    loss = F.cross_entropy(model(batch[0]), batch[1])
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


draws = torch.stack([gradient(batch) for batch in batches])
probe = gradients.moments(model, F.cross_entropy, batches, statistics="batch")
library = (probe.second.value, probe.squared_mean.value, probe.variance.value)
for name, mine, theirs in zip(("E‖g‖²", "‖E g‖²", "Var[g]"), moments(draws), library, strict=True):
    print(f"{name}: the same to 9 digits: {abs(float(mine) / theirs - 1) < 1e-9}")
rows = [("draws", "plug-in ‖ḡ‖²", "unbiased ‖E g‖²", "Var[g] / n")]
for n in (5, 10, 50):
    second, squared_mean, variance = (float(x) for x in moments(draws[:n]))
    plug_in = float((draws[:n].mean(0) ** 2).sum())
    rows.append((n, f"{plug_in:.4f}", f"{squared_mean:.4f}", f"{variance / n:.4f}"))
Table(rows)

# %% [markdown]
# The plug-in is the unbiased estimate plus the last column, exactly. Three more traps:
#
# - **Independent** means that each mini-batch is drawn without regard to the others, so an image may occur in several.
#   The mini-batches of one epoch share no image. They are not independent, and pairs of them no longer give
#   $\|\mathbb E g\|^2$.
# - **Per-sample gradients do not exist** under batch statistics: the loss of one image depends on all images of its
#   mini-batch. So the variance belongs to mini-batches of one size, and is not the variance of single images over that
#   size.
# - **Train mode and eval mode are two functions.** Their Hessians differ:

# %%
modes = {s: curvature.lambda_max(model, F.cross_entropy, batches[0], statistics=s) for s in ("batch", "running")}
Table([("statistics", "L"), *((name, f"{top.value:.3g}") for name, top in modes.items())])

# %% [markdown]
# Training goes down the first of the two. From here on it is the one meant.
#
# **What you should now believe.** The probe's two moments are unbiased, and their intervals say how sure they are
# (*proved* for the estimates; the intervals are tested in the library). $L$ has no such interval: it is exact for its
# mini-batch, and another mini-batch gives another. All three belong to one batch size and one mode.
#
# ## 3. Raw numbers can be anything
#
# **Intuition.** BN divides by the standard deviation of its input. Multiply the weights in front of it by 10, and the
# output is the same. The *function* did not change. But to turn a weight vector that is 10 times longer by the same
# angle takes a step that is 10 times longer, so every derivative shrinks.
#
# **Statement (proved).** If $F(aw)=F(w)$ for all $a>0$, then $\nabla F(aw)=\tfrac1a\nabla F(w)$ and
# $\nabla^2F(aw)=\tfrac1{a^2}\nabla^2F(w)$. The same holds for the loss of each mini-batch.
#
# **Proof.** Differentiate $F(aw)=F(w)$ with respect to $w$: by the chain rule $a\,\nabla F(aw)=\nabla F(w)$. Once
# more: $a^2\,\nabla^2F(aw)=\nabla^2F(w)$. Divide. $\square$
#
# **Exercise 4.2** Given the three raw numbers at $w$, write those at $aw$, for such a loss.

# %%
ex_rescaled = exercise("4.2")


def rescaled(curvature, second, variance, a):
    """(L, E||g||², Var[g]) at the weights a w, from their values at w, for a loss with F(a w) = F(w) for all a > 0."""
    raise NotImplementedError


ex_rescaled.check(rescaled)

# %% [markdown]
# So a net can have any raw $L$, $\mathbb E\|g\|^2$ and $\mathrm{Var}[g]$ you like, by the scale at which its weights
# are drawn. Comparing raw numbers of two nets compares their initializations as well.
#
# **The remedy.** Measure each tensor of weights in units of its own length, $w=\|w\|\,u$, and take derivatives in $u$.
# The squared gradient of a tensor is then multiplied by $\|w\|^2$, and the Hessian's entry for two tensors by
# $\|w\|\,\|w'\|$. These are the *scale-free* numbers: those of a step that is a given fraction of the weights. Biases
# and shifts are such tensors too; one that is zero, as at the start, has no length and is left out.
#
# **Exercise 4.3** Each layer may be rescaled by a factor of its own. Write the second moment that does not change:
# $\sum_\ell\|W_\ell\|^2\,\mathbb E\|g_\ell\|^2$.

# %%
ex = exercise("4.3")


def scale_free_second(weights, gradients):
    """Sum over layers of ||W||² E||g_W||²: weights is a list of tensors, gradients a list of [n, *shape of W]."""
    raise NotImplementedError


ex.check(scale_free_second)

# %% [markdown]
# **Check.** Take the trained net, multiply the weights of its convolutions by $a$, and measure again. The last layer
# has no norm behind it and is left alone.

# %%
def stretched(net, a):
    """A copy whose convolutions have weights (and biases) a times as long."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, torch.nn.Conv2d):
                for parameter in layer.parameters():
                    parameter.mul_(a)
    return net


def three(net):
    found = three_effects(net, F.cross_entropy, batches, statistics="batch")
    return {scale: {"curvature": e.L, "second": e.second.value, "variance": e.variance.value}
            for scale, e in (("raw", found.raw), ("scale_free", found.scale_free))}


figures.rescaled_effects({a: three(stretched(model, a)) for a in (1.0, 3.0, 10.0, 30.0)})

# %% [markdown]
# Left, the raw numbers fall, down to what the last layer and BN's own parameters contribute: these do not shrink.
# Right, nothing moves. Now the first convolution alone, whose weights do stand in front of a BN. Measured, and
# predicted from $a=1$ by your function of exercise 4.2. Then, on the whole net, your function of exercise 4.3 beside
# one common factor $\|w\|^2$ for all layers: with that there is no invariance, since the last layer keeps its length.

# %%
def first_layer(a):
    """Raw (L, E||g||², Var[g]) of the first convolution."""
    net = stretched(model, a)
    moments = gradients.moments(net, F.cross_entropy, batches, statistics="batch").layers["0.weight"].raw
    top = curvature.lambda_max(net, F.cross_entropy, batches[0], statistics="batch", parameters=["0.weight.weight"])
    return top.value, moments.second.value, moments.variance.value


predict = ex_rescaled.use(rescaled)
rows = [("first convolution, a = 10", *evidence.SYMBOLS.values())]
for what, numbers in (("measured", first_layer(10.0)), ("predicted", predict(*first_layer(1.0), 10.0))):
    rows.append((what, *(f"{float(x):.3g}" for x in numbers)))
display(Table(rows))
scale_free = ex.use(scale_free_second)


def layerwise(net):
    layers = [p for p in net.parameters() if p.dim() > 1]
    rows = [torch.autograd.grad(F.cross_entropy(net(x), y), layers) for x, y in batches]
    found = [torch.stack(column) for column in zip(*rows, strict=True)]
    one_factor = sum(float((w.detach() ** 2).sum()) for w in layers) * sum(float((g**2).sum()) / len(g) for g in found)
    return float(scale_free([w.detach() for w in layers], found)), one_factor


rows = [("weights times", "layer by layer", "one factor for all")]
for a in (1.0, 10.0):
    rows.append((f"{a:g}", *(f"{x:.2f}" for x in layerwise(stretched(model, a)))))
Table(rows)

# %% [markdown]
# **Where the invariance ends.** It needs a norm directly behind the weights. In *after* and *complete* the activation
# stands between them. There $F(aw)=F(w)$ only where the activation passes the factor through, $f(az)=af(z)$, as ReLU
# does; and our CBN's shift must be 0 or grow along. In *none* it never holds.

# %%
rows = [("scale-free L, weights times 10 / times 1", "relu", "tanh")]
for placement in ("none", "before", "complete"):
    ratios = []
    for activation in ("relu", "tanh"):
        torch.manual_seed(0)
        net = models.build("convnet", num_classes=10, in_channels=1, image_size=8, activation=activation,
                           placement=placement, widths=[4, 8]).double()
        top = [curvature.lambda_max(stretched(net, a), F.cross_entropy, batches[0], statistics="batch").scale_free
               for a in (10.0, 1.0)]
        ratios.append(f"{top[0] / top[1]:.3f}")
    rows.append((placement, *ratios))
Table(rows)

# %% [markdown]
# A ratio of 1 is invariance. Where it is not 1, the scale of the weights is part of the function, and no transformation
# can remove it. A comparison of such arms is one of equal *relative* steps, no more. All arms below start from the same
# weights.
#
# **What you should now believe.** Raw constants of a normalized net depend on the scale of its weights, which does not
# change what the net computes (*proved*, *measured* above). Scale-free constants do not, where the norm follows the
# weights directly. For other placements they are a choice of units, and we show both.
#
# ## 4. When to compare: matched loss, matched step
#
# **Intuition.** As the loss falls, gradients shrink. A run that is ahead has smaller gradients *because it is ahead*.
# If two arms are compared after the same number of steps, part of the difference is just that. At **matched loss** each
# arm is measured when its own training loss first falls below a given level. At **matched step** all are measured
# after the same number of steps. Both answer a question; they are not the same question.
#
# **Exercise 4.4** Two runs are lists of `(loss, value)` in the order of training. Write the comparison at matched
# loss: for each level the ratio of the values, each run taken at *its own* first point below the level.

# %%
ex = exercise("4.4")


def matched_ratios(ours, theirs, levels):
    """{level: our value / their value} at the first points with a loss below the level, where both runs get there.

    ours and theirs are lists of (loss, value) in the order of training; levels is a list of losses.
    """
    raise NotImplementedError


ex.check(matched_ratios)

# %% [markdown]
# ### The recorded grid
#
# Five activations, four placements, three seeds, on the bundled digits with a small network. Everything was fixed in
# `results/effects/PROTOCOL.md` before the first run: the points, the mini-batches, and which outcome counts for or
# against which claim. At each point: 64 independent mini-batches of 64 images, train mode. Runs of one seed share
# initial weights, order of images and probed mini-batches.
#
# One thing is *not* matched at matched loss: the learning rate. It follows one schedule for all arms (up, then down),
# so an arm that gets to a level later is also at another learning rate there. At matched step it is equal.
#
# The table is your function on two of the records: the raw $\mathbb E\|g\|^2$ of vanilla BN over that of no norm, ReLU,
# seed 0. The library's number at the same level must agree.

# %%
compare = ex.use(matched_ratios)
recorded = effects.records()
grid = evidence.of_data(recorded, "digits")
seeds = sorted({run.config["seed"] for run in grid})
devices = {(run.provenance["device"], run.provenance["threads"]) for run in grid}
display(Markdown(
    f"{len(grid)} of 60 runs are recorded, seeds {', '.join(map(str, seeds))}, float32, on "
    f"{', '.join(f'{device}, {threads} thread' for device, threads in devices)}. "
    f"Loss levels that an arm never reached: {'; '.join(evidence.never_reached(grid)) or 'none'}."))


def curve(placement, activation="relu", seed=0):
    """(training loss, raw E||g||²) at the recorded points of one run."""
    run, = (r for r in grid if [r.config[k] for k in ("activation", "placement", "seed")]
            == [activation, placement, seed])
    return [(entry["loss"], entry["raw"]["second"]) for entry in run.curve]


mine = compare(curve("before"), curve("none"), [1.5, 1.0, 0.5, 0.2])
theirs = evidence.ratios(grid, "relu", "before", "none", "second", matched="loss", scale="raw")[0]
rows = [("loss below", "yours", "library")]
Table(rows + [(level, f"{mine[level]:.3f}", f"{theirs[level]:.3f}") for level in mine])

# %% [markdown]
# **Predict first.** For ReLU, at matched loss: does vanilla BN make all three numbers smaller than no norm at all? And
# for Tanh? Write it down, then look. The last table says at which step each arm gets to a level.

# %%
def arms(activation, placements=effects.PLACEMENTS, records=grid):
    return widgets.effects.arms(records, activation, placements)


rows = [("vanilla BN over no norm: mean over the levels (range of seeds)", *evidence.SYMBOLS.values())]
for f in ("relu", "tanh"):
    display(figures.effect_curves(arms(f), matched="loss", scale="scale_free"))
    rows.append((f, *evidence.scores(grid, evidence.CLAIMS[0], f, matched="loss", scale="scale_free").values()))
display(Table(rows))
levels = effects.DIGITS.schedule.levels
rows = [("ReLU: mean step at which the loss is below", *levels)]
for placement, group in arms("relu").items():
    steps = [[evidence.points(run, "loss")[level]["step"] for run in group] for level in levels]
    rows.append((placement, *(f"{sum(s) / len(s):.0f}" for s in steps)))
Table(rows)

# %% [markdown]
# Without a norm the loss stands still for longer, so matched loss looks at this arm later. The learning rate rises
# during the first 30 % of training, so it is higher there. A part of the ratio to this arm may be owed to that.
#
# The same runs after equal numbers of steps give another picture. Early on the placements differ by how strong their
# gradients are; later the faster arms have small gradients because they have little loss left.

# %%
rows = [("ReLU, before / none", *evidence.SYMBOLS.values())]
for matched in evidence.MATCHED:
    for scale in evidence.SCALES:
        found = evidence.scores(grid, evidence.CLAIMS[0], "relu", matched=matched, scale=scale)
        rows.append((f"matched {matched}, {scale.replace('_', '-')}", *found.values()))
display(figures.effect_curves(arms("relu"), matched="step", scale="scale_free"), Table(rows))

# %% [markdown]
# Four ways to compare, and they need not agree. The abstract does not say which one it means. The protocol chose
# matched loss, scale-free, as the main one, before the runs.
#
# ### By layer
#
# Are the numbers of the whole net those of one layer? Sigmoid, before training, first layer to last:

# %%
growth = {}
for placement, group in arms("sigmoid").items():
    layers = [list(evidence.points(run, "step")[0]["layers"].values()) for run in group]
    growth[placement] = evidence.geometric_mean(
        row[3]["scale_free"]["second"] / row[0]["scale_free"]["second"] for row in layers)
display(figures.effects_by_layer(arms("sigmoid"), matched="step", at=0, scale="scale_free"), Markdown(
    "From the first to the fourth weight layer $\\mathbb E\\|g\\|^2$ changes by a factor of "
    + ", ".join(f"{factor:,.0f} ({p})" for p, factor in growth.items()) + "."))

# %% [markdown]
# Without a norm almost nothing arrives at the first layers of a Sigmoid net. Small numbers, then, can also mean that a
# network hardly learns. Keep this for section 6.
#
# **Your turn.** All of it, with menus.

# %%
widgets.dashboard(grid)

# %% [markdown]
# **What you should now believe.** Whether a placement "has" an effect depends on when one looks and in which units.
# A statement without both is incomplete. The numbers above are *measured*: one small network, 8 x 8 digits, one
# learning rate, the seeds and device named.
#
# ## 5. The abstract's claims, by the rule
#
# A score is the geometric mean, over the points that both arms have, of the ratio of the two arms; one score per seed.
# *Smaller* means below 1 in every seed and below 0.9 on average; *larger* the reverse; else *no clear difference*.
# A claim that all three effects are there is *supported* if all three are smaller, *not supported* if any is larger,
# *mixed* otherwise.
#
# A: vanilla BN induces the three effects with ReLU. B: only with ReLU (so B is supported where an effect is *not*
# there). C: CBN elicits all three whatever the activation. D: CBN more than vanilla BN; the abstract does not say this
# in so many words. A, B and C compare with no norm at all. The sentences are about the main comparison, the first table
# has all four. The other tables are the numbers behind the main one, in brackets the range of the seeds. A star marks a
# ratio that is clearly below 1 at some point of training and clearly above 1 at another, so that the mean over the
# levels hides a change.
#
# Three seeds are few. If each seed fell on either side of 1 like a coin, three of them would agree in one case out of
# four, two of them in one out of two (*proved*: count the cases). The margin of 0.9 is the other guard. Neither is a
# test of significance, and many comparisons are made.

# %%
display(Markdown("\n".join(f"- **{evidence.sentence(grid, claim)}**" for claim in evidence.CLAIMS)),
        Table(evidence.verdict_table(grid)))
display(*(Table(evidence.score_table(grid, claim, matched="loss", scale="scale_free")) for claim in evidence.CLAIMS))

# %% [markdown]
# The same ratios at every single point, means over the seeds. The protocol asks for them, since a mean along training
# can hide a change.

# %%
PAIRS = (("before", "none"), ("complete", "none"), ("complete", "before"))


def along(activation, placement, reference, quantity, *, matched, scale="scale_free"):
    """The ratio at each common point in the order of training, mean over the seeds."""
    table = evidence.ratios(grid, activation, placement, reference, quantity, matched=matched, scale=scale)
    points = sorted({p for row in table.values() for p in row}, reverse=matched == "loss")
    means = (evidence.geometric_mean(row[p] for row in table.values() if p in row) for p in points)
    return ", ".join(f"{mean:.2f}" for mean in means) or "no common point"


for matched, points in (("loss", effects.DIGITS.schedule.levels), ("step", effects.DIGITS.schedule.steps)):
    rows = [(f"matched {matched}: {', '.join(map(str, points))}", *evidence.SYMBOLS.values())]
    rows += [(f"{f}, {a} / {b}", *(along(f, a, b, e, matched=matched) for e in evidence.EFFECTS))
             for a, b in PAIRS for f in effects.ACTIVATIONS]
    starred = [evidence.changes_sign(grid, claim, f, e, matched=matched, scale="scale_free")
               for claim in evidence.CLAIMS for f in claim.activations for e in evidence.EFFECTS]
    display(Table(rows), Markdown(f"At matched {matched} {sum(starred)} of the {len(starred)} ratios behind A to D "
                                  "change from clearly below 1 to clearly above, or back, along training."))

# %% [markdown]
# As a picture, one dot a seed: our CBN over no norm, over vanilla BN, and over the plain swapped order.

# %%
for placement, reference in (("complete", "none"), ("complete", "before"), ("complete", "after")):
    found = [evidence.score(grid, f, placement, reference, e, matched="loss", scale="scale_free").outcome
             for f in effects.ACTIVATIONS for e in evidence.EFFECTS]
    counts = ", ".join(f"{found.count(word)} {word}" for word in dict.fromkeys(found))
    display(figures.effect_scores(grid, placement, reference, matched="loss", scale="scale_free"),
            Markdown(f"{placement} against {reference}, {len(found)} pairs of activation and effect: {counts}."))


def over_after(records, activations):
    """Our CBN over the swapped order in all four comparisons: how many outcomes of each kind, and the clear ones."""
    for matched in evidence.MATCHED:
        for scale in evidence.SCALES:
            found = {f"{f} {evidence.SYMBOLS[e]}": evidence.score(records, f, "complete", "after", e, matched=matched,
                                                                 scale=scale)
                     for f in activations for e in evidence.EFFECTS}
            outcomes = [s.outcome for s in found.values()]
            counts = ", ".join(f"{outcomes.count(word)} {word}" for word in dict.fromkeys(outcomes))
            clear = "; ".join(f"{k} {s}" for k, s in found.items() if s.outcome in ("smaller", "larger"))
            sides = [{r > 1 for r in s.by_seed.values()} for s in found.values()
                     if len(s.by_seed) >= evidence.LEAST_SEEDS]
            above, below = sides.count({True}), sides.count({False})
            yield (f"- matched {matched}, {scale.replace('_', '-')}: {counts}" + f" ({clear})" * bool(clear)
                   + f"; above 1 in every seed {above}, below 1 in every seed {below}")


display(Markdown("complete over after:\n" + "\n".join(over_after(grid, effects.ACTIVATIONS))))

# %% [markdown]
# Our CBN differs from the swapped order by its fast shifts alone. In the last picture, and in nearly all of the list
# below it, nothing is left of that beyond the margin (small differences that have one sign in every seed are counted at
# the end of each line): as far as the three effects go on these digits, our CBN is hardly to be told
# from the swapped order. So C and D are here about the *order*, and say little about CBN as such. (Scale-free numbers
# weigh a shift by its own small length; the raw ones see more of it.) What fast shifts add to training (notebook 06,
# on CIFAR-10) is not seen here.
#
# The three effects need not go together. Sigmoid shows it, our CBN over vanilla BN, in the first line below. Notebook
# 05 shows where that can come from: standardizing what a weight layer receives from a Sigmoid cuts the top eigenvalue
# of $\mathbb E[hh^\top]$, because the mean is gone, and raises its trace, because the variance is now 1. Whether it is
# so on CIFAR-10 too is said in section 7.
#
# And convergence itself, claim E: the training loss after equal numbers of steps, our CBN over vanilla BN.

# %%
found = evidence.scores(grid, evidence.CLAIMS[-1], "sigmoid", matched="loss", scale="scale_free")
display(Markdown("; ".join(f"{evidence.SYMBOLS[e]} is **{s.outcome}**, by a factor of {s.mean:.2f}"
                           for e, s in found.items()) + "."))
display(Table(evidence.faster_table(grid)), Markdown(f"**{evidence.sentence(grid, evidence.FASTER)}**"))

# %% [markdown]
# Put the last two results side by side. If our CBN trains faster than vanilla BN while its three numbers are *not*
# smaller at equal loss, then the three numbers alone do not explain the speed here. That is not what the abstract says.
# It may be our reconstruction, our network, our points of comparison, or the claim. From these runs one cannot tell
# which.
#
# **What you should now believe.** Read the verdicts as they stand. Where they differ between the four comparisons, the
# claim is not robust to a choice that the abstract leaves open (*measured*). What the authors' own layer does is
# *unknown*.
#
# ## 6. Small numbers or fast progress?
#
# **Intuition.** The inequality of section 1 has two terms. The three effects are all in the *second*. The first,
# $\|\nabla F\|^2$, is what a step wins. A net whose gradients are all tiny has three small numbers, and stands still.
#
# **Statement (proved).** The largest decrease that the inequality can guarantee for one step is
# $$\max_\alpha\Big(\alpha\|\nabla F\|^2-\tfrac12\alpha^2L\,\mathbb E\|g\|^2\Big)
# =\frac{\|\nabla F\|^4}{2\,L\,\mathbb E\|g\|^2}.$$
# It does not change when all units of $w$ are changed by one factor.
#
# **Proof.** The parabola in $\alpha$ has its top at $\alpha=\|\nabla F\|^2/(L\,\mathbb E\|g\|^2)$; insert it. Under
# $w\to aw$ the numerator goes with $a^{-4}$, and so does $L\,\mathbb E\|g\|^2$. $\square$
#
# So what counts is the product of $L$ and $\mathbb E\|g\|^2$ *relative to* $\|\nabla F\|^4$. ($L$ is the local
# curvature here, so the guarantee holds to second order only.)

# %%
display(figures.effect_curves(arms("tanh"), matched="loss", scale="raw", quantities=("squared_mean", "decrease")))


def by_level(quantity, activation, placement="complete", reference="before"):
    """Ratio of a quantity over the seeds and levels at matched loss."""
    return evidence.score(grid, activation, placement, reference, quantity, matched="loss", scale="raw")


rows = [("complete / before at matched loss", "L", "E‖g‖²", "‖E g‖²", "best guaranteed decrease")]
for f in effects.ACTIVATIONS:
    found = [by_level(q, f) for q in ("curvature", "second", "squared_mean", "decrease")]
    rows.append((f, *(f"{s.mean:.2f} ({min(s.by_seed.values()):.2f} to {max(s.by_seed.values()):.2f})" for s in found)))
gain = {f: by_level("decrease", f) for f in effects.ACTIVATIONS}
more = [f for f, s in gain.items() if s.outcome == "larger"]
less = [f for f, s in gain.items() if s.outcome == "smaller"]
display(Table(rows), Markdown(
    f"At equal training loss the best guaranteed decrease per step is, by the rule of section 5, larger with our CBN "
    f"than with vanilla BN for {', '.join(more) or 'no activation'}; smaller for {', '.join(less) or 'none'}; without "
    f"clear difference for {', '.join(f for f in gain if f not in more + less) or 'none'}."))

# %% [markdown]
# This is one reading that reconciles the two results: a placement can have *larger* constants and still promise more
# per step, because its gradient is larger by more. It was noted in the protocol beforehand, but no verdict hangs on it,
# and a larger promise is not yet the cause of faster training.
#
# A reading must be tried where it can fail, so here are all three pairs of placements: the effects and the promise at
# matched loss, and who is ahead at matched steps. Only the loss of complete against before is in the protocol. The rest
# was put together **after the records had been seen**, so it is material for a question, not a verdict.

# %%
def word(activation, pair, quantity, matched="loss", scale="scale_free"):
    return evidence.score(grid, activation, *pair, quantity, matched=matched, scale=scale).outcome


rows = [("pair", "L, E‖g‖², Var[g] (scale-free)", "best guaranteed decrease", "training loss",
         "its ratio after " + ", ".join(str(step) for step in effects.DIGITS.schedule.steps if step) + " steps")]
kinds = {"all three smaller, and not faster": [], "all three larger, and faster": [],
         "a smaller promise, and faster": [], "a larger promise, and slower": []}
for pair in PAIRS:
    for f in effects.ACTIVATIONS:
        three_words, promise = {word(f, pair, e) for e in evidence.EFFECTS}, word(f, pair, "decrease", scale="raw")
        loss = word(f, pair, "loss", "step", "raw")
        at_steps = along(f, *pair, "loss", matched="step").split(", ")[1:]  # without step 0
        rows.append((f"{f}, {' / '.join(pair)}", ", ".join(word(f, pair, e) for e in evidence.EFFECTS), promise, loss,
                     ", ".join(at_steps)))
        hit = (three_words == {"smaller"} and loss != "smaller", three_words == {"larger"} and loss == "smaller",
               promise == "smaller" and loss == "smaller", promise == "larger" and loss == "larger")
        for kind, true in zip(kinds, hit, strict=True):
            kinds[kind] += [rows[-1][0]] * true
display(Table(rows), Markdown("\n".join(f"- {kind}: {'; '.join(found) or 'none'}" for kind, found in kinds.items())))

# %% [markdown]
# The first two lines of the list speak against the three effects as *the* reason of speed in these runs, the last two
# against the best guaranteed decrease as the reason. Neither number sorts all pairs rightly. Two warnings: at matched
# loss the learning rates differ, and the mean ratio of training losses leans on the last step, where both losses are
# small. The single steps stand beside it for that.
#
# The clearest case is Sigmoid without a norm. Over the whole run, at matched step, vanilla BN over no norm:

# %%
rows = [("Sigmoid, before / none, matched step", *evidence.SYMBOLS.values())]
for scale in evidence.SCALES:
    found = evidence.scores(grid, evidence.CLAIMS[0], "sigmoid", matched="step", scale=scale)
    rows.append((scale.replace("_", "-"), *found.values()))
last = {p: [run.final["train_loss"] for run in arms("sigmoid")[p]] for p in ("none", "before")}
display(Table(rows), Markdown("Training loss of the last epoch: " + "; ".join(
    f"{figures.spread(values, 3)} with {p}" for p, values in last.items()) + "."))

# %% [markdown]
# The net with the smaller numbers is the one that does not train. (After equal numbers of steps the other one has a
# much smaller loss, and larger numbers all the same.)
#
# **What you should now believe.** In these runs, at one learning rate, smaller constants were neither needed for faster
# training nor enough for it (*measured*; that is not to say that they play no part). What the inequality asks for is
# small constants *for a given gradient* (*proved*), and that does not sort all the pairs either (*measured*).
#
# ## 7. A larger net, and a run of your own
#
# The protocol has a smaller second part on CIFAR-10: 10,000 images, four convolutions, four epochs, Sigmoid, Tanh and
# ReLU.

# %%
THREE = ("sigmoid", "tanh", "relu")
cifar = evidence.of_data(recorded, "cifar10")
count = {(f, p): sum(r.config["activation"] == f and r.config["placement"] == p for r in cifar)
         for f in THREE for p in effects.PLACEMENTS}
display(Markdown(f"{len(cifar)} of 36 runs are recorded. Seeds per arm: "
                 + ", ".join(f"{f} {p} {n}" for (f, p), n in count.items())
                 + f". Levels never reached: {'; '.join(evidence.never_reached(cifar)) or 'none'}."))
small = [replace(claim, activations=tuple(f for f in claim.activations if f in THREE))
         for claim in (*evidence.CLAIMS, evidence.FASTER)]
display(Markdown("On CIFAR-10:\n" + "\n".join(f"- {evidence.sentence(cifar, claim)}" for claim in small)))
opposite = []
for claim in small[:-1]:
    seen = False
    for f in claim.activations:
        there = evidence.scores(cifar, claim, f, matched="loss", scale="scale_free")
        here = evidence.scores(grid, claim, f, matched="loss", scale="scale_free")
        seen = seen or any(s.by_seed for s in there.values())
        opposite += [f"{f} {claim.placement} / {claim.reference} {evidence.SYMBOLS[e]}: {here[e]} on digits, "
                     f"{s} on CIFAR-10"
                     for e, s in there.items() if {s.outcome, here[e].outcome} == {"smaller", "larger"}]
    if seen:
        display(*(Table(evidence.score_table(cifar, claim, matched=m, scale="scale_free")) for m in evidence.MATCHED))
display(Table(evidence.faster_table(cifar, small[-1])),
        Markdown("complete over after:\n" + "\n".join(over_after(cifar, THREE))),
        Markdown("Clear on both data sets and opposite: " + ("; ".join(dict.fromkeys(opposite)) or "none") + "."))

# %% [markdown]
# Pairs without a record have no table. A pair with one seed counts as "not measured" by the rule; its numbers are in
# the tables all the same. The last line holds what was clear on the digits and is the other way round here. What holds
# on one data set need not hold on the next.
#
# ### Live
#
# The same measurement, with fewer points: your own arm, laid over the recorded ones. Change the activation, the
# placement or the seed. (float32; another processor gives slightly other numbers.)

# %% tags=["nbval-ignore-output"]
short = effects.Schedule(levels=(1.0, 0.2), steps=(0,), batches=50)
live = effects.record(effects.Job(effects.DIGITS.config("tanh", "complete", 3), short))
label = f"{live.config['placement']}, live"
figures.effect_curves({**arms(live.config["activation"], ["before", "complete"]), label: [live]},
                      matched="loss", scale="scale_free")

# %% [markdown]
# ## Summary
#
# - The three effects are three numbers of a network at one moment: curvature, second moment, variance. They can be
#   measured in seconds.
# - Three conditions belong to each of them: the mode of the norms, the batch size, the units of the weights. A
#   comparison needs a fourth, the moment.
# - Raw numbers of a normalized net depend on a scale that the net does not care about.
# - The verdicts on the abstract's claims are in section 5 and in the table below. They differ between activations, and
#   some differ between ways to compare.
# - Small constants alone do not make a net fast; small constants for a given gradient are what the proof asks for. In
#   these runs neither sorts all pairs of placements by their speed.

# %%
rows = [("claim", "label", "verdict here, digits, matched loss (E: step), scale-free")]
for claim in (*evidence.CLAIMS, evidence.FASTER):
    said = evidence.sentence(grid, claim).removeprefix(f"{claim.letter}, {claim.text}: ")
    whose = "reported (their layer), measured (ours)" if claim.placement == "complete" else "reported, measured"
    label = "our reading, measured (ours)" if claim.letter == "D" else whose
    rows.append((f"{claim.letter}. {claim.text}", label, said))
Table(rows)

# %% [markdown]
# | claim | label |
# |---|---|
# | the bias of the plug-in; derivatives at $aw$; the best guaranteed decrease | proved, here |
# | all ratios, scores and verdicts | measured, here: small nets, two data sets, one learning rate, a CPU |
# | which constants go with speed (all three pairs, section 6) | measured, put together after the records were seen |
# | the three effects explain BN | reported (abstract of Peng, Yu and Yu); not decided here |
# | our layer is theirs | unknown |
#
# ## Exercises
#
# 4.1 to 4.4 check themselves; `python -m cbn_lab.exercises` lists them.
#
# **4.5** Write down a rule of your own for claim C, before you look: which points, which units, how many seeds, and
# what would make you say "not supported". Apply it with `evidence.ratios(grid, activation, "complete", "none", effect,
# matched=..., scale=...)`. Where does your verdict differ from section 5, and which of the two rules would you defend?
#
# **4.6** The records hold the numbers in eval mode at the end of seed 0: `run.curve[-1]["running"]`. For which
# placements do train and eval mode differ most? Why must they agree for *none*?
#
# **4.7** `evidence.point_table(grid, "selu", "before", "none", matched="loss", scale="scale_free")` shows the ratios at
# each level. Describe in two sentences what the mean over the levels hides.
#
# ## Going further
#
# - Fill in what is missing in the records: `python -m cbn_lab.effects --out results/effects`.
# - Measure your own net: `cbn_lab.probes.effects.three_effects(model, loss_fn, batches, statistics="batch")`.
# - Change the learning rate in `effects.DIGITS.config` and ask whether a verdict survives. Write down first which.
# - Notebook 05 asks where the differences come from: what does a weight layer receive?
#
# ## References
#
# - H. Peng, Y. Yu, S. Yu, *Re-Thinking the Effectiveness of Batch Normalization and Beyond*, IEEE TPAMI 46(1), 2024.
# - L. Bottou, F. Curtis, J. Nocedal, *Optimization Methods for Large-Scale Machine Learning*, SIAM Review 60(2), 2018,
#   arXiv:1606.04838.
# - T. van Laarhoven, *L2 Regularization versus Batch and Weight Normalization*, 2017, arXiv:1706.05350 (scale
#   invariance and effective learning rate).
