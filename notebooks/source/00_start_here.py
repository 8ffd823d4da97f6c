# %% [markdown]
# # Start here: does my set-up work, and what will I see?
#
# In this notebook you check your machine, train two small networks, and see one of the effects that the whole course
# is about. They differ only in the normalization: where it stands, what it does, and how fast its shifts learn.
#
# **You will be able to**
#
# 1. say what your machine has, and train a network live in a notebook (sections 1 and 4, exercise 0.1);
# 2. read learning curves of several seeds, and say what they do not show (sections 4 and 5, exercise 0.2);
# 3. name six places for a normalization, and try an activation of your own in each (sections 3 and 5, exercise 0.3);
# 4. tell a proof from a measurement, a report and a piece of folklore (section 2, exercise 0.4).
#
# You need Python, the first steps in PyTorch, and some probability. You do not need a GPU.
#
# **Time:** about 20 minutes, without the exercises. Sections 1 to 6 take 3, 4, 2, 4, 3 and 1 minutes. (Measured: the
# words at 150 a minute, and the cells on two CPU cores.) An exercise takes a minute of training and as long as you
# think.

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
import math
from dataclasses import replace
from statistics import fmean

import torch
from IPython.display import Markdown
from torch import nn

from cbn_lab import activations, blocks, data, doctor, figures, start, widgets
from cbn_lab.exercises import exercise
from cbn_lab.train import train

DATA = "../data"  # looked at first, then ./data, $CBN_LAB_DATA and ~/.cache/cbn-lab
torch.set_num_threads(1)  # nets this small gain little from a second thread, and lose much on a busy machine

# %% [markdown]
# ## 1. Does my set-up work?
#
# The report reads versions and files. `cbn-lab doctor` prints the same on the command line. Where something is
# missing, it says what to do. CIFAR-10 may be missing: this notebook then uses the digits that come with the course.

# %% tags=["nbval-ignore-output"]
print(doctor.text(doctor.report(DATA)))

# %% [markdown]
# Versions are not enough. Below, each of the course's six ways to build a block makes a small network, and each
# network goes once through the training images. A working set-up lowers the loss six times.

# %%
for placement in blocks.placements():
    one_epoch = replace(start.config("relu", placement), epochs=1)
    losses = [progress.loss for progress in train(one_epoch)]
    finite = all(map(math.isfinite, losses))
    print(f"{placement:13} the loss is finite: {finite}, and it falls: {losses[-1] < losses[0]}")

# %% [markdown]
# These are the images. They are real: handwritten digits, scanned from forms that people filled in (UCI "Optical
# Recognition of Handwritten Digits", Alpaydin and Kaynak 1998). The test images come from forms that are not in the
# training set.

# %%
digits = {split: data.load("digits", split) for split in ("train", "test")}
figures.images(digits["test"], 10)

# %%
Markdown(f"There are {len(digits['train']):,} images to train on and {len(digits['test'])} to test "
         f"on, each only {digits['test'].image_size} pixels wide, so that you can train in seconds.")

# %% [markdown]
# **What you should now believe, and how sure we are.** Your set-up can run this course. You have seen it train, so
# this is *measured*, on your machine. It says nothing yet about how fast it is or how well the networks learn.
#
# ## 2. What this course is
#
# Batch normalization (BN) was introduced in 2015 (Ioffe and Szegedy). Nearly everyone uses it. Why it helps is still
# argued about. Peng, Yu and Yu (IEEE TPAMI, 2024) give an answer for stochastic gradient descent (SGD). Their
# abstract *reports*:
#
# - Three effects make SGD faster and better: a smaller Lipschitz constant of the gradient, a smaller expected squared
#   norm of the stochastic gradient, and a smaller variance of it.
# - Vanilla BN has the three effects only with ReLU. With Sigmoid, Tanh and SELU it slows convergence.
# - *Complete batch normalization* (CBN) changes the place and the structure of the normalization. It has the three
#   effects whatever the activation is, trains faster, and gives a higher test accuracy.
#
# In this course you prove what can be proved of this, and measure the rest.
#
# **Our CBN is a reconstruction.** The paper is not open, and only its abstract was known to us. The abstract does not
# say what CBN computes. We built a layer that is consistent with the abstract, and say so wherever we compare. A
# result of our layer is a result about our layer. (The letters CBN also stand for Conditional BN, de Vries et al.
# 2017, and for Cross-iteration BN, Yao et al. 2020. These are other things.)
#
# ### Four labels
#
# Every claim in this course has one of four labels.
#
# | label | it means | what would change our mind |
# |---|---|---|
# | **proved** | a proof is in the course | an error in the proof |
# | **measured** | it was seen here: in k of n seeds, device and settings named | more seeds, other settings |
# | **reported** | a cited source says so; we have not checked it | the source, or a measurement |
# | **folklore** | many say so; we know no good source | almost anything |
#
# A measurement is not a proof: it holds for the settings that were run. A proof is not a measurement: its assumptions
# may not hold for your network.
#
# ### The notebooks
#
# | | the question it answers |
# |---|---|
# | 00 start here | Does my set-up work, and what will I see? |
# | 01 batch norm from scratch | What exactly does BN compute, forward, backward, in evaluation? |
# | 02 why does BN help | Covariate shift, Lipschitzness, or something else? |
# | 03 three effects, proof | Why do the three effects set the speed of SGD? |
# | 04 measuring the effects | How large are the three on a real network? |
# | 05 activations under BN | Why does vanilla BN suit ReLU? |
# | 06 complete batch norm | What would a norm need that works for any activation? |
# | 07 placement playground | What if I swap the activation or the place? |
# | 08 training on GPU | How is it trained at full size, and on many GPUs? |
# | 09 the evidence | Do the claims of the abstract hold here? |
# | 10 beyond | Small batches, residual nets, other norms, your own project |
#
# Each notebook runs alone. The README says which of them exist already.
#
# ### Notation
#
# The same symbols are used everywhere.
#
# | symbol | meaning |
# |---|---|
# | $F(w)$, $w$ | the loss, averaged over the training images; all weights of the network |
# | $g$ | a stochastic gradient: of the loss on one mini-batch |
# | $L$ | Lipschitz constant of $\nabla F$: $\lVert\nabla F(w)-\nabla F(w')\rVert\le L\,\lVert w-w'\rVert$ |
# | $\mathbb E\lVert g\rVert^2$, $\mathrm{Var}[g]$ | expected squared norm and variance of $g$ |
# | $W$ | the weights of one layer (linear or convolution) |
# | $h$ | what enters a weight layer |
# | $z = Wh$ | what leaves it, the pre-activation |
# | $f$ | the activation, applied to each number alone |
# | $\mu$, $\sigma^2$, $\varepsilon$ | mean and variance over a mini-batch, per channel; a small constant |
# | $\gamma$, $\beta$ | learned scale and shift of BN, per channel |
#
# **What you should now believe, and how sure we are.** What the abstract says is *reported*. That our layer is their
# layer is **not** claimed. All the rest of the course is about finding out what holds.
#
# ## 3. Two blocks
#
# A network here is a pile of blocks. A block has a weight layer, an activation $f$ and, at some place, a
# normalization. Standardizing means: subtract $\mu$, then divide by $\sqrt{\sigma^2+\varepsilon}$. The picture is
# drawn from the modules that are trained below.

# %%
figures.block_diagram(["before", "complete"], "sigmoid")

# %% [markdown]
# The upper row is vanilla BN: it standardizes $z$, and then $f$ acts on the result. So, up to its learned scale and
# shift, it sets the mean and the variance of what enters $f$, not of what enters the next weight layer. The lower row
# is our reconstruction of CBN: it standardizes *after* $f$, so it sets those of what enters the next weight layer. A
# shift is a learned bias; the factor before it multiplies its effective learning rate. Notebook 06 builds this layer
# step by step.
#
# Why could the place matter? Suppose that $z\sim\mathcal N(0,1)$. Vanilla BN gives this mean and variance at the
# start of training; that $z$ is normal is an assumption. Look at $h = f(z)$.

# %%
FIVE = ("sigmoid", "tanh", "relu", "selu", "swish")
figures.moments(FIVE)

# %%
sigmoid, relu = activations.moments("sigmoid"), activations.moments("relu")
share = {name: 100 * m.mean**2 / m.second for name, m in (("Sigmoid", sigmoid), ("ReLU", relu))}
Markdown(f"""The length of a bar is $\\mathbb E[f(z)^2]$. After Sigmoid, {share['Sigmoid']:.0f} % of it is the
squared mean, the same for every image. After ReLU it is {share['ReLU']:.0f} %. The variance, which is what
distinguishes the images, is {sigmoid.variance:.3f} after Sigmoid and {relu.variance:.3f} after ReLU.""")

# %% [markdown]
# **What you should now believe, and how sure we are.** Vanilla BN sends very different inputs into the next weight
# layer for different activations. For normal $z$ these are exact numbers (integrals, computed to many digits).
# Whether they *matter* for training is another question. The next section measures.
#
# ## 4. A minute of training
#
# You will train the same network twice, with Sigmoid, once with vanilla BN (`before`) and once with our
# reconstruction of CBN (`complete`). Both start from the same weights, see the same images in the same order, and
# have the same nominal learning rate; the shifts of `complete` move nine times as fast (section 3).

# %% tags=["nbval-ignore-output"]
pair = start.experiment(root=DATA)
setting = pair[0]
Markdown(f"Here: {setting.data}, {setting.epochs} epochs, batches of {setting.batch_size}, peak learning "
         f"rate {setting.lr:g}, weight decay {setting.weight_decay:g}, six convolutions, seed {setting.seed}.")

# %% [markdown]
# **Predict first.** Which of the two ends with the lower training loss? By how many points will the accuracy on
# unseen images differ? Write your guess in the next cell, then run on. (`None` means that you make no guess.)

# %%
my_guess = None  # points by which "complete" ends above "before" in accuracy; negative if below

# %% [markdown]
# The training runs while you read on. Start, Stop and Clear do what they say. "Next seed" trains both again from other
# weights, and draws the new curves over the old ones. Running the cell again ends what it was training.

# %% tags=["nbval-ignore-output"]
live = widgets.watch(pair, root=DATA)
live

# %% [markdown]
# The next cell waits until the training has ended. (To stop it while the cell waits, interrupt the kernel.)

# %% tags=["nbval-ignore-output"]
trained = await live.done()
figures.learning_curves(trained)

# %% tags=["nbval-ignore-output"]
answer = "You made no guess."
if my_guess is not None and all(run.status == "finished" for run in trained):
    gain = start.gains(trained)["complete"]["sigmoid"][0]
    answer = f"You guessed {my_guess:+.1f} points; it is {gain:+.1f}."
Markdown(f"{start.sentence(trained)} {answer}")

# %% [markdown]
# One seed is one throw of the dice. So here are three seeds of the same two networks on the digits, recorded when
# this course was made. Thin lines and hollow points are seeds, thick lines their means; the band goes from the lowest
# seed to the highest.

# %%
records = start.records()
sigmoid_pair = [run for run in records if run.config["activation"] == "sigmoid"
                and run.config["placement"] in ("before", "complete")]
figures.learning_curves(sigmoid_pair)

# %%
source = sigmoid_pair[0].provenance
Markdown(f"{start.sentence(sigmoid_pair)} (Measured on {source['device']}, {source['threads']} thread, "
         f"commit {source['commit']}.)")

# %% [markdown]
# Read two things apart. The *training loss* says how fast SGD gets down. That is what the three effects are about.
# The *accuracy on unseen images* also depends on how well the network generalizes. A gain in the one need not be a
# gain in the other.
#
# How exact is a test accuracy? It is a count of right answers among $n$ images. If each is right with probability
# $p$, independently, the standard error is $\sqrt{p(1-p)/n}$.

# %%
n = len(digits["test"])
p = fmean(run.final["test_accuracy"] for run in sigmoid_pair)
error = 100 * math.sqrt(p * (1 - p) / n)
Markdown(f"""With {n} test images and $p = {p:.3f}$, the mean of these runs, it is {error:.1f} points. If two
networks erred independently, the difference of their accuracies would have an error of
{math.sqrt(2) * error:.1f} points. They see the same images, so it is somewhat less. Still, two or three
points on the digits are not much evidence. More seeds remove only a part of this error: all are tested on
the same {n} images.""")

# %% [markdown]
# **What you should now believe, and how sure we are.** With Sigmoid, on the digits, in this small network, our
# reconstruction reached a much lower training loss than vanilla BN in the same number of steps, in each of three
# seeds. *Measured.* Its accuracy on unseen images was higher in each seed as well, but by little more than the error.
# Nothing here says why, and nothing here is about other activations, larger networks or longer training.
#
# ## 5. Choose the activation and the place
#
# There are six places in the course. Here they are with Tanh.

# %%
figures.block_diagram(blocks.placements(), "tanh")

# %% [markdown]
# **Predict first.** Vanilla BN is row `before`. For which of the five activations will it make the largest difference
# to move the normalization? For which the smallest? What happens without any (`none`)?
#
# Then choose below. The curves are recorded, three seeds each; "Play" lets them grow as if they were being trained, and
# the slider shows any epoch. "Start" trains your choice live, with a seed that is not among them. It goes on when you
# choose something else, and stays in the picture until "Clear".

# %%
widgets.chooser(records)

# %% [markdown]
# All of it in one picture: the test accuracy after the last epoch, minus that of vanilla BN with the same activation
# and the same seed. Every dot is one seed.

# %%
normalized = [run for run in records if run.config["placement"] != "none"]
figures.difference(normalized)

# %%
gains = start.gains(records)
rows = [("activation", "complete minus before, points", "higher in")]
for name, points in gains["complete"].items():
    rows.append((name, figures.spread(points, sign=True), f"{sum(d > 0 for d in points)} of {len(points)}"))
figures.Table(rows)

# %%
others = "; ".join(f"{place} {figures.spread(gains[place]['sigmoid'], sign=True)}"
                   for place in ("after", "before_weight"))
Markdown(f"For Sigmoid the two plain ways to put a BN behind the activation gain as well: {others}. So this "
         "picture does not show that the rest of our layer is needed.")

# %%
none = figures.accuracies(records, "placement", "test_accuracy")["none"]
without = ", ".join(f"{name} {fmean(values.values()):.0f} %" for name, values in none.items())
Markdown(f"Without any normalization (`none`, not in the picture) the mean test accuracies are {without}. "
         f"Guessing would give {100 / digits['test'].num_classes:.0f} %.")

# %% [markdown]
# **What you should now believe, and how sure we are.** On the digits, `complete` is above `before` for Sigmoid in
# every seed. For the other four activations the seeds disagree, and most differences are no larger than the error
# from above. Sigmoid does not learn at all without a normalization; SELU hardly needs one. That is what this
# experiment can show, and it is little: a small network learns small images well in nearly every way. It neither
# supports nor refutes what the abstract reports for Tanh and SELU. That needs harder images and longer training;
# notebook 06 does it on CIFAR-10. All of this is *measured*: one network, three seeds, one learning rate, which was
# not tuned for any of them.
#
# ## 6. The same from the command line
#
# A notebook is one way in. The command line is another:
#
# ```bash
# cbn-lab train --data digits --model convnet --activation sigmoid --placement before
# cbn-lab train --data digits --model convnet --activation sigmoid --placement complete
# ```
#
# Each ends with a line of results and the path of a record. Records are small JSON files with settings, curve,
# device, versions and commit. All pictures of recorded runs in this course are made from such files.
#
# In a network of your own, a block is one line:

# %%
net = nn.Sequential(
    blocks.block(nn.Linear(64, 32, bias=False), "sigmoid", "complete"),
    nn.Linear(32, 10),
)
net(torch.randn(5, 64)).shape

# %% [markdown]
# ## Summary
#
# - Your machine runs the course. The digits come with it; CIFAR-10 is used where it is found.
# - Vanilla BN sets mean and variance of what enters the activation, our reconstruction of CBN those of what enters
#   the next weight layer, up to a learned scale and shift.
# - With Sigmoid you can see the difference in seconds. With the other activations, on the digits, you cannot.
# - A number without seeds, device and settings is an anecdote. A claim without a label is folklore.
#
# ## Exercises
#
# **0.1 Other weights.** Press "Next seed" in section 4 twice. Before each, guess which network wins. *What to look
# for:* does the order of the two training losses change? Does the order of the accuracies? What is the spread between
# seeds, compared with the difference between the networks?
#
# **0.2 More time.** Perhaps vanilla BN with Sigmoid is only slower. The cell below trains both for three times as
# many epochs. Predict the picture, then press Start. *What to look for:* the distance of the two training losses at
# the end, against that in section 4. Does vanilla BN catch up in accuracy before it catches up in loss? Which of
# "faster" and "better" can you now claim, and with which label?

# %%
longer = [replace(start.config("sigmoid", place, seed=3), epochs=30) for place in ("before", "complete")]
short = {f"{label}, recorded": group for label, group in figures.arms(sigmoid_pair).items()}
widgets.LiveTraining(longer, recorded=short)

# %% [markdown]
# **0.3 An activation of your own.** Write one, in place of `raise NotImplementedError`. It then has a name, and every
# network, figure and widget of the course can use it. `ex.check` says whether it can serve as an activation; there are
# many right answers. `ex.hint()` helps, `ex.solution()` shows one. Without yours, Softsign, $z/(1+|z|)$, stands in.
# *What to look for:* compute the moments first, and predict from them how much the place will matter. Try something
# bounded and one-sided, such as $e^{-z^2}$, then something with mean 0. Put the other places into the list as well.
# Where were you wrong?

# %%
ex = exercise("0.3")


class MyActivation(nn.Module):
    """f(z), for each number alone; z may have any shape."""

    def forward(self, z):
        raise NotImplementedError


ex.check(MyActivation)

# %%
activations.register("mine", ex.use(MyActivation))
figures.moments(["mine", *FIVE])

# %%
own = [start.config("mine", placement) for placement in ("before", "after", "complete")]
yardstick = [run for run in records if (run.config["activation"], run.config["placement"]) == ("relu", "before")]
widgets.LiveTraining(own, recorded={"relu, before, recorded": yardstick})

# %% [markdown]
# **0.4 Which label?** Give each sentence one of the four labels, or "none" if it deserves none.
#
# 1. "BN works because it reduces internal covariate shift."
# 2. "With CBN the test accuracy with Sigmoid is on average more than 15 points higher than with vanilla BN."
# 3. "For $z\sim\mathcal N(0,1)$ the mean of Sigmoid$(z)$ is 1/2."
# 4. "Complete batch normalization is better than batch normalization."
#
# *What to look for:* who says it, for which settings, and what would show that it is wrong.

# %%
ex = exercise("0.4")
labels = None  # a list of four, such as ["measured", "measured", "measured", "measured"]
ex.check(labels)

# %% [markdown]
# What you solve is noted in `cbn_lab_progress.json` beside this notebook. The file is yours; `python -m
# cbn_lab.exercises` reads it.
#
# ## Going further
#
# - Notebook 06 takes our reconstruction apart and measures which of its parts matters.
# - The source of the layer is `cbn_lab/norms/complete.py`, about as long as this page; the places are in
#   `cbn_lab/blocks.py`.
# - `python -m cbn_lab.start --out results/start` makes the recorded runs of this notebook again.
# - Read Santurkar et al. (2018) with one question in mind: which of their claims are proved, and which measured?
#
# ## References
#
# - E. Alpaydin, C. Kaynak. *Optical Recognition of Handwritten Digits*. UCI Machine Learning Repository, 1998. [doi
#   10.24432/C50P49](https://doi.org/10.24432/C50P49)
# - S. Ioffe, C. Szegedy. *Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
#   Shift*. ICML 2015. [arXiv:1502.03167](https://arxiv.org/abs/1502.03167)
# - H. Peng, Y. Yu, S. Yu. *Re-Thinking the Effectiveness of Batch Normalization and Beyond*. IEEE TPAMI 46(1), 2024.
#   [doi 10.1109/TPAMI.2023.3319005](https://doi.org/10.1109/TPAMI.2023.3319005). Known to us by its abstract.
# - S. Santurkar, D. Tsipras, A. Ilyas, A. Madry. *How Does Batch Normalization Help Optimization?* NeurIPS 2018.
#   [arXiv:1805.11604](https://arxiv.org/abs/1805.11604)
# - H. de Vries et al. *Modulating early visual processing by language*. NIPS 2017.
#   [arXiv:1707.00683](https://arxiv.org/abs/1707.00683)
# - Z. Yao et al. *Cross-Iteration Batch Normalization*. 2020. [arXiv:2002.05712](https://arxiv.org/abs/2002.05712)
