# %% [markdown]
# # Complete batch normalization: what would a norm need that works for any activation?
#
# Vanilla batch normalization (BN) was made for ReLU. With Sigmoid, Tanh or SELU it is said to help less, or to harm.
# This notebook starts from what a weight layer needs, builds a layer that provides it, and tests each part of that
# layer.
#
# **The layer is a reconstruction.** Peng, Yu and Yu (TPAMI 2024) describe a *complete batch normalization*. Only
# their abstract was known to us. It says that CBN changes *where* the normalization stands and *modifies its
# structure*. It does not say how. What we build here agrees with the abstract; it need not be their layer. (Two other
# things are called CBN: Conditional BN, de Vries et al. 2017, and Cross-iteration BN, Yao et al. 2020.)
#
# **You will be able to**
# 1. say why the second moment of a weight layer's *input* matters, and compute it (exercise 6.1);
# 2. build our CBN from four parts and say what each part is for (exercise 6.2);
# 3. read an ablation with seeds, and say what it does not show (exercise 6.3);
# 4. fold a normalization into the next convolution exactly, borders included (exercise 6.4).
#
# **Time:** about 30 minutes without the exercises: the words at 150 a minute, the proofs at half that speed. The
# cells take about a minute of it on two CPU cores.
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
import torch
from IPython.display import Markdown, display
from torch import nn

from cbn_lab import ablation, activations, evidence, figures, models, norms, runs, train
from cbn_lab.figures import Table

ACTIVATIONS = ablation.ACTIVATIONS  # sigmoid, tanh, relu, selu, swish
torch.manual_seed(0)

# %% [markdown]
# ## Notation
#
# | symbol | meaning |
# |---|---|
# | $h \in \mathbb R^N$ | input of a weight layer; in a hidden layer, the output of the block before |
# | $z = W h$ | its output, the pre-activation |
# | $\delta = \partial \text{loss} / \partial z$ | gradient that arrives at the weight layer |
# | $f$ | activation, elementwise |
# | $\mathbb E$ | mean over the mini-batch (and over pixels, for images) |
# | $\gamma, s$ | learned scale and shift of a channel |
# | $k$ | learning-rate multiplier of the shifts |
#
# ## 1. What a weight layer needs
#
# **Intuition.** The gradient of $W$ is made of two factors. One comes from above, $\delta$. The other is the layer's
# own input $h$. A large input makes a large gradient. An input with a large mean makes one direction of $W$ much
# steeper than the others.
#
# **Statement (proved).** For one sample, $\nabla_W \text{loss} = \delta h^\top$, so $\|\nabla_W\|_F^2 =
# \|\delta\|^2\,\|h\|^2$. If $\|\delta\| \le B$ for every sample, then $\mathbb E\|\nabla_W\|_F^2 \le B^2\,\mathbb
# E\|h\|^2$, and the variance of the gradient is at most that.
#
# **Proof.** $z_i = \sum_j W_{ij} h_j$, so $\partial\,\text{loss}/\partial W_{ij} = \delta_i h_j$. Square and sum:
# $\sum_{ij} \delta_i^2 h_j^2 = \sum_i \delta_i^2 \sum_j h_j^2$. Take the mean and use $\|\delta\|^2 \le B^2$. Last,
# the variance of any vector is $\mathbb E\|g\|^2 - \|\mathbb E g\|^2 \le \mathbb E\|g\|^2$. $\square$
#
# **Check.** One sample, autograd on the left side, the product on the right.

# %%
layer = nn.Linear(20, 7, bias=False, dtype=torch.float64)
h = torch.randn(1, 20, dtype=torch.float64)
z = layer(h)
loss = z.sin().sum()
(delta,) = torch.autograd.grad(loss, z, retain_graph=True)
(gradient,) = torch.autograd.grad(loss, layer.weight)
left, right = (gradient**2).sum(), (delta**2).sum() * (h**2).sum()
print(f"squared gradient / product = {float(left / right):.12f}")

# %% [markdown]
# So the question is: what is $\mathbb E\|h\|^2$? Vanilla BN standardizes $z$, not $f(z)$. Suppose that BN did its
# work perfectly and $z \sim \mathcal N(0, 1)$. What arrives at the next weight layer is $f(z)$, and its moments
# depend on $f$. The last column is the largest eigenvalue of $\mathbb E[hh^\top]$ for $N = 64$ independent inputs
# with mean $m$ and variance $v$, which is $N m^2 + v$ (LeCun, Bottou, Orr and Müller 1998); all others are $v$.

# %%
rows = [("activation", "mean", "variance", "second moment", "top eigenvalue", "top / others")]
for name in ACTIVATIONS:
    m = activations.moments(name)
    top = 64 * m.mean**2 + m.variance
    numbers = (abs(m.mean), m.variance, m.second, top, top / m.variance)
    rows.append((name, *(f"{x:.3f}" for x in numbers)))
Table(rows)

# %%
figures.moments(ACTIVATIONS)

# %% [markdown]
# Read it from the right. Sigmoid hands on a signal that is mostly mean: one direction of the next weight matrix is
# several hundred times as steep as the others. ReLU has the same problem, milder. For Tanh and SELU the mean is 0 *at
# initialization*. So a mean cannot be the whole story for them; keep that in mind for section 5.
#
# Nor do these numbers stay. During training BN's own $\gamma$ and $\beta$ move the input of $f$, and the moments of
# $f(z)$ move with them. Nothing in vanilla BN holds them.
#
# **What you should now believe.** The squared gradient of a weight layer is bounded by the second moment of its input
# (*proved*). Vanilla BN does not fix that moment, and how far off it is depends on the activation (*proved* for a
# normal pre-activation, by quadrature). Whether this decides how fast a net trains is *not* settled by this argument.
#
# ## 2. First part: standardize what the weight layer receives
#
# **Intuition.** If the moment of $f(z)$ is the trouble, standardize $f(z)$. The normalization moves behind the
# activation.

# %%
def standardize(h, eps=1e-5):
    """Zero mean and unit variance per channel, over batch and pixels; h is [N, C, H, W]."""
    mean = h.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((h - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    return (h - mean) / torch.sqrt(variance + eps)


z = torch.randn(256, 8, 4, 4, dtype=torch.float64)
rows = [("activation", "E f(z)²", "E standardize(f(z))²")]
for name in ACTIVATIONS:
    h = activations.get(name)(z)
    before, behind = (h**2).mean(), (standardize(h) ** 2).mean()
    rows.append((name, f"{float(before):.3f}", f"{float(behind):.3f}"))
Table(rows)

# %% [markdown]
# The third column no longer depends on the activation. This alone is the *swapped order*, known for long and found to
# be no clear winner (Hasani and Khotanlou 2019, *reported*).
#
# ## 3. Second part: a scale and a shift behind it
#
# BN has $\gamma$ and $\beta$ so that the layer can undo the standardization where that is better. We keep both, at
# the end:
#
# $$ y_c = \gamma_c\,\hat h_c + s_c, \qquad \hat h = \text{standardize}(f(z)). $$
#
# **Statement (proved).** In train mode, with $v_c$ the batch variance of $f(z)$ in channel $c$,
# $$ \mathbb E\,y_c^2 = \gamma_c^2\,\frac{v_c}{v_c+\varepsilon} + s_c^2,
# \qquad\text{hence}\qquad \mathbb E\|y\|^2 \le \|\gamma\|^2 + \|s\|^2 $$
# for *every* activation, whatever the weights below are.
#
# **Proof.** $\hat h_c$ has batch mean 0 and batch variance $v_c/(v_c+\varepsilon)$. So $\mathbb E(\gamma\hat h + s)^2
# = \gamma^2\,\mathbb E\hat h^2 + 2\gamma s\,\mathbb E\hat h + s^2$, and the middle term is 0. Sum over the channels.
# $\square$
#
# With section 1: $\mathbb E\|\nabla_W\|^2 \le B^2(\|\gamma\|^2+\|s\|^2)$. The layer's own parameters bound the
# gradient of the weights that follow. The activation has dropped out.
#
# **What this does not say.** It bounds a trace, not the top eigenvalue: channels that carry the same signal still add
# up in one direction. It holds for batch statistics, not for running ones. It says nothing about $B$. And where $v_c$
# is as small as $\varepsilon$, the moment is smaller.

# %%
gamma = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
shift = torch.tensor([0.0, 1.0, -0.5], dtype=torch.float64)
z = 3 * torch.randn(512, 3, 4, 4, dtype=torch.float64) - 1
rows = [("E y² of channel", *range(3))]
for name in ACTIVATIONS:
    h = standardize(activations.get(name)(z))
    y = gamma.view(1, 3, 1, 1) * h + shift.view(1, 3, 1, 1)
    rows.append((name, *(f"{float(x):.3f}" for x in (y**2).mean(dim=(0, 2, 3)))))
rows.append(("**γ² + s²**", *(f"**{float(x):.3f}**" for x in gamma**2 + shift**2)))
Table(rows)

# %% [markdown]
# ## 4. Third and fourth part: a shift before the activation, and fast shifts
#
# **Intuition.** Behind the activation the scale is settled. *Before* it something else is: which part of the
# activation's curve the channel uses, its operating point. A shift $a$ before $f$ moves it. In a Sigmoid net a
# channel may want to sit at the foot of the curve, nearly off, and switch on for few inputs. To get there the shift
# has to travel several units, and with an ordinary step it is slow. (That bounded activations do well when they
# saturate on one side was found by Kim, Kim and Kim 2023, *reported*. That speed is what the shifts lack is our
# *hypothesis*; section 5 tests it.)
#
# **A fast shift** is a shift stored as $b$ and applied as $a = \sqrt k\, b$.
#
# **Statement (proved).** Under SGD with step $\alpha$ and weight decay $\lambda$ on $b$, the shift moves as $a
# \leftarrow (1-\alpha\lambda)\,a - \alpha k\,\partial\,\text{loss}/\partial a$: its gradient step is multiplied by
# $k$, its decay is not.
#
# **Proof.** $\partial\,\text{loss}/\partial b = \sqrt k\;\partial\,\text{loss}/\partial a$. So $b \leftarrow b -
# \alpha(\sqrt k\,\partial_a\text{loss} + \lambda b)$; multiply by $\sqrt k$. $\square$

# %%
def one_step(k, alpha=0.1, decay=0.2):
    """The shift after one SGD step on loss(a) = cos(a), from a = 0.7."""
    b = nn.Parameter(torch.tensor(0.7, dtype=torch.float64) / k**0.5)
    (b * k**0.5).cos().backward()
    torch.optim.SGD([b], lr=alpha, weight_decay=decay).step()
    return float(b.detach() * k**0.5)


a = torch.tensor(0.7, dtype=torch.float64)
for k in (1.0, 9.0):
    formula = (1 - 0.1 * 0.2) * a + 0.1 * k * a.sin()
    print(f"k = {k:g}: one step leads to {one_step(k):.6f}, formula: {float(formula):.6f}")

# %% [markdown]
# ### The whole layer
#
# Four parts, in order: shift, activation, standardize, scale and shift. The weight layer in front needs no bias; the
# first shift is one.

# %%
class MyCompleteBatchNorm(nn.Module):
    """gamma * standardize(f(z + sqrt(k) a)) + sqrt(k) b, in train mode. A reconstruction."""

    def __init__(self, channels, activation, k=9.0):
        super().__init__()
        self.f, self.k = activations.get(activation), k
        self.a = nn.Parameter(torch.zeros(channels))
        self.gamma = nn.Parameter(torch.ones(channels))
        self.b = nn.Parameter(torch.zeros(channels))

    def forward(self, z):
        a, gamma, b = (p.view(1, -1, 1, 1) for p in (self.a, self.gamma, self.b))
        h = self.f(z + self.k**0.5 * a)
        return gamma * standardize(h) + self.k**0.5 * b


# %% [markdown]
# The library's `CompleteBatchNorm2d` is the same function. It adds running statistics for eval mode, one fused kernel
# for the standardization, and switches for every part. The two are compared in float64, with random parameters.

# %%
mine = MyCompleteBatchNorm(8, "sigmoid").double()
library = norms.CompleteBatchNorm2d(8, "sigmoid").double()
pairs = {"pre_shift": mine.a, "gamma_after": mine.gamma, "post_shift": mine.b}
for name, own in pairs.items():
    nn.init.normal_(own)
    getattr(library, name).data.copy_(own.data)
z = torch.randn(16, 8, 5, 5, dtype=torch.float64)
print("equal to 12 decimals:", torch.allclose(mine(z), library(z), rtol=0, atol=1e-12))

# %% [markdown]
# In a block, the pictures differ by little. Note where each normalization stands relative to the *next* weight layer.

# %%
figures.block_diagram(["before", "after", "complete"], activation="tanh")

# %% [markdown]
# What does it change in a net? Below, the second moment of what each weight layer receives, in a net with Sigmoid at
# initialization: vanilla BN against the reconstruction. The first layer reads the image, so it is left out.

# %%
def input_moments(placement, activation):
    """Second moment of the input of each weight layer but the first; random images, no training."""
    torch.manual_seed(0)
    model = models.build("convnet", num_classes=10, activation=activation, placement=placement)
    found = []
    for layer in model.modules():
        if isinstance(layer, nn.Sequential) and hasattr(layer, "weight"):
            layer.register_forward_pre_hook(lambda _, x: found.append((x[0] ** 2).mean()))
    with torch.no_grad():
        model(torch.randn(128, 3, 32, 32))
    return [f"{float(x):.2f}" for x in found[1:]]


arms = [(f, p) for f in ("sigmoid", "tanh") for p in ("before", "complete")]
heading = ("activation", "placement", *(f"layer {i}" for i in range(2, 7)))
Table([heading, *((f, p, *input_moments(p, f)) for f, p in arms)])

# %% [markdown]
# **What you should now believe.** For every activation the second moment behind our layer is $\|\gamma\|^2+\|s\|^2$
# up to $\varepsilon$ (*proved*), and it is 1 per channel at the start (*measured* above, one seed, random images).
# That fast shifts help is so far a hypothesis.
#
# ## 5. Does each part matter? The structure ablation
#
# **Predict first.** The figure below compares structures on CIFAR-10 with a small net: six convolutions, 20,000
# training images, 3 epochs, one common learning rate. Before you run on, write down:
# - Which activation gains most when BN merely moves behind the activation?
# - Do fast shifts help *without* standardizing behind the activation?
# - Which part does Tanh need that Sigmoid does not?
#
# The rows, settings, and the rule that decides were fixed in `results/PROTOCOL.md` before the first run. All runs
# below are recorded; the next cell only reads them.

# %%
records = runs.load_all("../results/ablation")
small = evidence.of_setting(records, train_images=20_000)
display(Markdown(
    f"{len(small)} of {len(ablation.ROWS) * 15} runs of the small setting are recorded: "
    f"seeds {', '.join(str(s) for s in sorted({run.config['seed'] for run in small}))}, "
    f"on {', '.join({run.provenance['device'] for run in small})}."))

# %%
figures.ablation(small, ablation.ROWS, metric="test_accuracy")

# %% [markdown]
# Each dot is a seed, each bar a mean, the dashed line vanilla BN. Now the same as gains over vanilla BN. A gain is
# the difference between two runs with the same seed, so with the same initial weights and the same order of the
# images.

# %%
Table(evidence.gain_table(small))

# %%
def mean_gain(row, activation):
    values = evidence.gains(small, row, activation)
    return sum(values) / len(values)


lines = []
for f in ACTIVATIONS:
    best = max((row for row in ablation.ROWS if row != "vanilla"), key=lambda row: mean_gain(row, f))
    lines.append(
        f"- **{f}**: position alone (swapped) {mean_gain('swapped', f):+.1f}; fast shift alone, BN "
        f"still before {mean_gain('vanilla_9x', f):+.1f}; position and fast shifts "
        f"{mean_gain('shifts_9x', f):+.1f}; with gamma as well {mean_gain('gamma_9x', f):+.1f}. "
        f"Best of all: {ablation.ROWS[best].label} ({mean_gain(best, f):+.1f}).")
display(Markdown("\n".join(lines)))

# %% [markdown]
# Compare with what you wrote down. The list answers the three questions: position alone, fast shifts alone, and what
# gamma adds to both.
#
# Three epochs are few. Which parts still pay when training goes on? The long setting has 45,000 training images and 8
# epochs.

# %%
long = evidence.of_setting(records, train_images=45_000)
rows = {row: ablation.ROWS[row] for row in evidence.recorded_rows(long)}
display(Markdown(f"{len(long)} of {6 * 15} runs of the long setting are recorded, seeds "
                 f"{', '.join(str(s) for s in sorted({run.config['seed'] for run in long}))}."))
figures.ablation(long, rows, metric="test_accuracy")

# %%
Table(evidence.gain_table(long))

# %% [markdown]
# ### Beside the abstract
#
# The abstract reports average gains in test accuracy over vanilla BN. Its networks, epochs and what the average runs
# over are unknown to us, so the columns are *not* the same quantity. They stand side by side because a reader will
# ask.

# %%
Table(evidence.abstract_table(small=small, long=long))

# %% [markdown]
# The abstract also says that with CBN these activations become comparable to ReLU, and that CBN reaches a lower
# training loss. Both can be read from the same runs. Means over the seeds:

# %%
display(Table(evidence.result_table(small, "small")), Table(evidence.result_table(long, "long")))

# %% [markdown]
# ### The defaults, by the protocol
#
# The layer has two settings that no theory gives: the multiplier $k$, and whether there is a $\gamma$. The protocol
# compares candidates with $(k, \gamma) = (9, \text{after})$ on *validation* accuracy in the long setting, in pairs of
# equal activation and seed. A challenger must be better by more than two standard errors, with at least two seeds of
# every activation. The small setting is shown too; it does not decide, because three epochs favour whatever moves
# fast.

# %%
display(Table(evidence.verdict_table(long, "long", decisive=True)),
        Table(evidence.verdict_table(small, "small", decisive=False)))

# %%
undecayed = evidence.of_setting(records, train_images=20_000, decay_norm=False)
c = evidence.compare(undecayed, evidence.of_row(small, evidence.DEFAULT))
effect = (f"{c.mean:+.2f} points of validation accuracy, standard error {c.standard_error:.2f}, "
          f"{len(c.gains)} pairs: {'better' if c.convincing else 'not better by the rule'}"
          if c.gains else "not recorded")
default = norms.CompleteBatchNorm2d(1)
display(Markdown(
    f"No weight decay on shifts and gamma, small setting: {effect}.\n\n"
    f"The layer's defaults: k = {default.shift_lr_multiplier:g}, gamma behind the standardization. "
    "Open: a schedule of k, residual nets, other learning rates, longer training."))

# %% [markdown]
# ### Live, in small
#
# The same comparison on the bundled digits takes seconds. The images are 8 by 8 and the net learns them in a few
# epochs, so this shows that the code runs and which way the wind blows, no more.

# %% tags=["nbval-ignore-output"]
live = {}
for row in ("vanilla", "swapped", "gamma_9x"):
    structure = ablation.ROWS[row]
    config = train.TrainConfig(data="digits", activation="sigmoid", epochs=6, device="cpu",
                               placement=structure.placement, norm_options=structure.options)
    live[structure.label] = [train.fit(config)]
figures.learning_curves(live)

# %% [markdown]
# **What you should now believe.** Position and structure both matter, and how much depends on the activation
# (*measured*: this net, this data set, one learning rate, the seeds and device named above). Gains at three epochs
# are not gains at eight: compare the two tables. That our reconstruction is the authors' layer: *unknown*.
#
# ## 6. Folding: no norm at inference
#
# In eval mode the statistics are constants, and a norm is an affine map per channel, $y_c = \alpha_c x_c + \beta_c$.
# An affine map beside a weight layer can be absorbed by it.
#
# - **Norm behind a weight layer** (vanilla BN): $\alpha(Wh) + \beta = (\alpha W)h + \beta$. Nothing more to say.
# - **Norm in front of a weight layer** (CBN, swapped): $W(\alpha\odot h + \beta) = (W\,\mathrm{diag}\,\alpha)\,h +
#   W\beta$. For a linear layer $W\beta$ is a bias.
#
# For a *padded* convolution $W\beta$ is **not** a bias. Zero padding stands between the norm and the convolution: it
# pads the *normalized* map. Near the border some taps of the kernel read padding, where the offset $\beta$ is absent.
# So the term is a map that differs at the border:
#
# $$ B_{o,i,j} = \sum_{c}\sum_{(u,v)\ \text{inside the image}} W_{o,c,u,v}\,\beta_c . $$

# %%
torch.manual_seed(1)
conv = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
norm = nn.BatchNorm2d(3, dtype=torch.float64).eval()
nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
h = torch.randn(1, 3, 6, 6, dtype=torch.float64)

scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
offset = norm.bias - norm.running_mean * scale
constant = torch.einsum("ocuv,c->o", conv.weight, offset) + conv.bias
naive = nn.functional.conv2d(h, conv.weight * scale.view(1, 3, 1, 1), constant, padding=1)
print("1 where the constant bias is wrong:")
print(((naive - conv(norm(h))).abs().amax(dim=1)[0] > 1e-9).int().numpy())

# %% [markdown]
# Right inside, wrong along the whole border. `fold` adds the map instead. It costs one convolution of a single
# channel of ones per image size, whatever the batch.

# %%
folded = norms.fold(nn.Sequential(norm, conv))
error = (folded(h) - conv(norm(h))).abs().max()
print("largest error of fold below 1e-12:", bool(error < 1e-12))
folded

# %% [markdown]
# A whole net: the reconstruction's layers dissolve into the convolutions that follow, the last one passes through the
# average pool into the linear layer. Parameters and statistics are made random first, so that nothing is trivially
# zero.

# %%
model = models.build("convnet", num_classes=10, activation="tanh").double()
for parameter in model.parameters():
    if parameter.dim() == 1:
        nn.init.normal_(parameter, 0.5, 0.3)
images = torch.randn(64, 3, 32, 32, dtype=torch.float64)
model(images)  # one batch in train mode sets the running statistics
model.eval()
folded = norms.fold(model)
with torch.no_grad():
    error = float((folded(images) - model(images)).abs().max())
kinds = sorted({type(m).__name__ for m in folded.modules() if not list(m.children())})
print("largest difference below 1e-10:", error < 1e-10)
print("the folded net is made of", ", ".join(kinds))

# %% [markdown]
# **What you should now believe.** In eval mode our CBN costs nothing in a chain of layers: it folds away exactly
# (*proved* by the formula above, *measured* in float64). In a residual net the sum stands between the norm and its
# neighbours, and an affine map per channel remains there.
#
# ## Summary
#
# - A weight layer's gradient is bounded by the second moment of its input. Vanilla BN fixes the moment one step too
#   early.
# - Our reconstruction of CBN is: weight layer, shift, activation, standardize, scale and shift; the shifts are fast.
# - The second moment behind it is $\|\gamma\|^2+\|s\|^2$ for every activation. The top eigenvalue is not fixed.
# - What each part gives was measured, per activation, over seeds. Much is open.
#
# | claim | label |
# |---|---|
# | the gradient bound of section 1, the moment of section 3, the fast shift of section 4, folding | proved, here |
# | the gains in the tables of section 5 | measured, here: one small net, CIFAR-10, one learning rate, a CPU |
# | CBN gains more than 15.0, 4.5, 4.0 points for Sigmoid, Tanh, SELU | reported (abstract of Peng, Yu and Yu) |
# | our layer is theirs | unknown |
# | BN "reduces internal covariate shift", and therefore helps | folklore; notebook 02 is about it |
#
# ## Exercises
#
# **6.1** A channel has $\gamma = 2$ and, after the factor $\sqrt k$, the shift 1. What is the second moment of what
# the next weight layer receives? Put your number in place of `None`.

# %%
answer = None

layer = norms.CompleteBatchNorm2d(1, "swish", shift_lr_multiplier=9.0).double()
nn.init.constant_(layer.gamma_after, 2.0)
nn.init.constant_(layer.post_shift, 1 / 3)  # times sqrt(9) is 1
second = float((layer(torch.randn(512, 1, 4, 4, dtype=torch.float64)) ** 2).mean().detach())
print("not attempted" if answer is None
      else "correct" if abs(answer - second) < 0.01
      else "not what the layer gives: which terms does the proof of section 3 add?")

# %% [markdown]
# **6.2** Write the variant that divides by the root mean square and does not centre: `h / sqrt(mean(h²) + eps)`.
# Which argument of `CompleteBatchNorm2d` is the same function? What is its second moment, and what happens to the
# mean spike of section 1?

# %%
def rms(h, eps=1e-5):
    """[N, C, H, W] -> the same shape. Your code here."""
    return None


h = torch.rand(32, 4, 3, 3, dtype=torch.float64)
reference = norms.Standardize(4, center=False).double()(h)
attempt = rms(h)
print("not attempted" if attempt is None
      else "correct" if torch.allclose(attempt, reference)
      else "not the same: over which axes is the mean taken, and is eps inside the root?")

# %% [markdown]
# **6.3** Choose an activation and a structure from the table of section 5 whose dots overlap with vanilla BN's. How
# many seeds would you need to tell them apart? (Estimate the spread of a paired difference from the dots.) Then look
# for a structure that gains at three epochs and not at eight, and write down a hypothesis that a further run could
# refute.
#
# **6.4** Change the convolution of section 6 to stride 2 and run the cell again: along which borders is the constant
# bias wrong now, and why not along all four? Then set `padding_mode="circular"`: why is the constant bias right?
#
# ## Going further
#
# - Run the ablation yourself, or fill in what is missing: `python -m cbn_lab.ablation --out results/ablation`.
# - Train a net of your own: `cbn-lab train --data cifar10 --activation tanh --placement complete`.
# - Register your own structure as a placement (`cbn_lab.blocks.register`) and compare it by the same protocol.
#
# ## References
#
# - H. Peng, Y. Yu, S. Yu, *Re-Thinking the Effectiveness of Batch Normalization and Beyond*, IEEE TPAMI 46(1), 2024.
# - S. Ioffe, C. Szegedy, *Batch Normalization*, ICML 2015, arXiv:1502.03167.
# - Y. LeCun, L. Bottou, G. Orr, K.-R. Müller, *Efficient BackProp*, 1998.
# - G. Chen et al., *Rethinking the Usage of Batch Normalization and Dropout*, 2019, arXiv:1905.05928.
# - M. Hasani, H. Khotanlou, *An Empirical Study on Position of the Batch Normalization Layer*, 2019,
#   arXiv:1912.04259.
# - D. Kim, J. Kim, J. Kim, *Tanh Works Better With Asymmetry*, NeurIPS 2023.
