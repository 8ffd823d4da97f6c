# %% [markdown]
# # Training on a GPU: how is it trained at full size, and on many GPUs?
#
# A training loop that works is not yet fast. In this notebook you compute how fast it could be at best. Then you take
# the script that most of us write and change one thing at a time, until it is the loop of this course. Each change is
# measured, on a recorded machine and on yours. At the end you look at what half precision does to a batch norm (BN),
# and spread one batch over several processes.
#
# You need no GPU. Everything runs on a CPU, and on a GPU where there is one (Colab's T4 too).
#
# **You will be able to**
#
# 1. find the lines of a loop that make the processor wait (section 1, exercise 8.1);
# 2. augment a whole batch on the device (section 2, exercise 8.2);
# 3. compute a lower limit for the time of layers, and say why a norm waits for memory (section 3, exercise 8.3);
# 4. say from timed rounds what a change gives, and whether that differs from nothing (section 4, exercise 8.4);
# 5. write a norm for half precision, with float32 where it is needed (section 5, exercise 8.5);
# 6. compute the statistics of a batch that is spread over several devices (section 6, exercise 8.6);
# 7. weigh the losses of unequal shares so that the gradient is that of the whole batch (section 6, exercise 8.7).
#
# **Time:** about 35 minutes without the exercises: the words at 150 a minute, the proofs at half that speed, code and
# tables that the cells show at 400. Sections 1 to 6 take 3, 2, 6, 7, 4 and 5 minutes, what stands around them 7, and
# the cells one or two more, on two CPU cores.
#
# Every claim carries one of four labels: **proved**, **measured** (device, settings, repeats), **reported** (in a cited
# source), **folklore**.

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

# %% tags=["nbval-ignore-output"]
import contextlib
import html
import inspect
import io
import json
import subprocess
import tempfile
from dataclasses import replace
from statistics import median

import torch
import torch.nn.functional as F
from IPython.display import HTML, Markdown, display
from PIL import Image
from torch import nn
from torchvision.transforms import functional

from cbn_lab import data, figures, ladder, norms, runs, speeds, waits, widgets
from cbn_lab.bench import kernels, limits, student
from cbn_lab.bench.measure import alternate
from cbn_lab.exercises import ex08, ex08_moments, exercise
from cbn_lab.figures import Table
from cbn_lab.train import TrainConfig, Trainer, fit

DATA = None  # CIFAR-10 is looked for where the data module says; or name its folder here
settings = ladder.config()  # the device, the net and the batch of this notebook
print("device:", runs.device_name(settings.device))


def show_code(*parts):
    """Sources, as they stand in the library."""
    display(Markdown("```python\n" + "\n".join(inspect.getsource(part) for part in parts) + "```"))


def discussion(*parts):
    """Folded, so that it gives nothing away before your guess."""
    inside = "".join(part if isinstance(part, str) else part.html() for part in parts)
    display(HTML(f"<details><summary>Discussion. Open it after your guess.</summary>{inside}</details>"))

# %% [markdown]
# ## Notation
#
# | symbol or word | meaning |
# |---|---|
# | $B$ | images per optimizer step, the *optimizer batch* |
# | normalization batch | the images whose values share one mean and one variance |
# | $R$, rank | number of processes that train together, and one of them |
# | $n_r$, $n$ | values of a channel on rank $r$, and on all ranks together |
# | $\mu_r$, $v_r$, $M_{2,r}$ | mean, biased variance (over $n_r$), sum of squares around the mean, on rank $r$ |
# | map | all values of a layer's output for one batch: images x channels x height x width |
# | operation | one multiplication or one addition |
# | operator | one call into torch, such as a convolution |
# | kernel | a program that the device runs for one operator, or for several that were fused |
# | $P$, $W$ | operations that a device does (*peak*) and bytes that it moves (*bandwidth*) per second, at most |
# | rung | one step from the slow loop to the fast one: the rung above with one change |
#
# ## 1. What waits for what
#
# Below is the script that most of us write first: PIL images, torchvision's transforms, a `DataLoader`, float32. It is
# honest code, without a planted slowness. It stands in a class, so that later a single method of it can be replaced.
#
# One step does five kinds of work. Images are *transformed*, one by one, in Python. They are *copied* to the device.
# The processor *hands out* operators, one after the other. On a GPU each is a *launch*, which takes its time however
# small the operator is (*folklore*: some microseconds). The device *computes* them. And now and then the processor
# *waits* for a result.

# %%
show_code(student.make_loader, ladder.Student)

# %% tags=["nbval-ignore-output"]
with ladder.images_for(settings, DATA) as (found, training):
    slow = ladder.Student(found, training)
ready = []
seconds = alternate({"images": lambda: ready.append(next(slow.feed)),
                     "step": lambda: slow.step(*ready[-1]).item()}, repeats=7)
share = {part: median(times) for part, times in seconds.items()}
display(Markdown(
    f"Images from {training.source.split(',')[0]}, batches of {found.batch_size}, median of 7: **{share['images']:.3f} "
    f"s** for the images of a batch, **{share['step']:.3f} s** for its SGD step. Making the images takes "
    f"{100 * share['images'] / sum(share.values()):.0f} % of the time on {runs.device_name(found.device)} "
    f"(threads of the CPU: {torch.get_num_threads()})."))

# %% [markdown]
# The transforms always run on the CPU. So the faster the device, the larger the share of the time that goes into
# images. (`num_workers` spreads them over more CPU cores, if you have them.)
#
# ### What makes the processor wait
#
# On a GPU the processor does not wait by itself (*reported*: PyTorch's note *CUDA semantics*). It hands out work and
# goes on; as long as it is ahead, the device never idles. But Python needs a *value* for some things: to print it, to
# decide an `if`, or to know how large a result will be. Then the processor has to wait until the device has computed
# everything up to there, and its lead is gone.
#
# **Exercise 8.1** The loop below has more than one such line. The images are on the GPU already. In which lines does
# the processor wait, in each step? Put a set of line numbers in place of `None`. `ex.hint()`, `ex.hint(2)` and so on
# help in steps; `ex.solution()` shows one way.

# %%
ex = exercise("8.1")
print(ex08.numbered())
lines = None
ex.check(lines)

# %% jupyter={"source_hidden": true} cellView="form"
net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
few = [(torch.randn(6, 3, 2, 2), torch.arange(6) % 3) for _ in range(2)]
with contextlib.redirect_stdout(io.StringIO()):  # the loop prints
    waiting = waits.found(ex08.a_loop, net, few, torch.optim.SGD(net.parameters(), lr=0.1))
source = inspect.getsource(ex08.a_loop).splitlines()
discussion("<p>You need not trust your eyes. <code>waits.found</code> runs a function and watches its operators, on a "
           "CPU as well. (On a GPU, <code>torch.cuda.set_sync_debug_mode('warn')</code> does it for whole programs.) "
           "It found:</p><ul>", *(
               f"<li>line {line}, <code>{html.escape(source[line - 1].strip())}</code>: {reason}</li>"
               for line, reason in sorted(waiting.items())),
           "</ul><p>Sums, masks and lists of tensors stay on the device. Read them once, at the end of an epoch.</p>")

# %% [markdown]
# **What you should now believe, and how sure we are.** The lines that the discussion names ask for a value (*proved* by
# watching the operators). On a GPU that ends the processor's lead (*reported*, as above; this loop ran on a CPU). What
# it costs depends on how far ahead it was. On a CPU there is no lead, and it should cost next to nothing. You will
# measure that in section 4.
#
# ## 2. Images on the device
#
# CIFAR-10 as uint8 has 50,000 x 32 x 32 x 3 bytes, 154 MB. That fits into any GPU. So copy all of it once, and cut,
# mirror and normalize there, a whole batch at a time.
#
# torchvision's transforms draw *once* for a whole batch if they get one. Then all images are shifted alike
# (*reported*: torchvision's documentation of `transforms`). A draw for each image is ours to write.
#
# **Exercise 8.2** Write it. No loop over the images.

# %%
ex = exercise("8.2")


def crop_and_flip(images, dy, dx, flip, pad):
    """uint8 [B, H, W, C]: each image padded with `pad` zeros on all sides, cut to H x W, then mirrored where `flip`.

    images uint8 [B, H, W, C]; dy, dx int64 [B] in 0 .. 2 pad, the upper left corner of the cut in the padded image;
    flip bool [B]: left and right exchanged.
    """
    raise NotImplementedError


ex.check(crop_and_flip)

# %%
augment = ex.use(crop_and_flip)
digits = data.load("digits", "train")
chosen = digits.images[:10]
draws = data.augmentation(10, torch.Generator().manual_seed(0), pad=2, flip=True)
ours = augment(chosen, draws.dy, draws.dx, draws.flip, 2)
theirs = []  # the same draws, one PIL image after the other
for place, image in enumerate(chosen):
    picture = functional.pad(Image.fromarray(image[:, :, 0].numpy()), 2)
    picture = functional.crop(picture, int(draws.dy[place]), int(draws.dx[place]), 8, 8)
    picture = functional.hflip(picture) if draws.flip[place] else picture
    theirs.append(functional.pil_to_tensor(picture).permute(1, 2, 0))
print("every pixel agrees with the PIL images:", torch.equal(ours, torch.stack(theirs)))
mirrored = ", ".join(str(digit) for digit, flip in enumerate(draws.flip.tolist()) if flip)
cut = figures.images(replace(digits, images=ours), 10).fig
display(figures.images(digits, 10),
        figures.Figure(cut, f"The same ten digits, each cut out at a place of its own; mirrored are {mirrored}."))

# %% tags=["nbval-ignore-output"]
at_once = training.shuffled(0, 0, found.batch_size, pad=4, flip=True)  # the library's, of the same kind as yours
seconds = alternate({"one by one, PIL": lambda: next(slow.feed),
                     "at once, uint8": lambda: data.normalize(next(at_once)[0], training)}, repeats=7)
Table([(f"{found.batch_size} images of CIFAR's size, on the CPU", "ms, median of 7"),
       *((name, f"{1000 * median(times):.2f}") for name, times in seconds.items())])

# %% [markdown]
# The pictures show ten digits, and below them the same ten after a crop and a flip of their own. Every pixel is that of
# the usual transforms with the same draws. (Mirrored digits are no digits. So the course flips CIFAR's images, and not
# these.) The table compares the time that both ways take.
#
# **What you should now believe, and how sure we are.** The same augmentation can be had for a small part of the price,
# on the CPU already (*measured* above, on your machine). It needs data that fit into memory, decoded. Photographs of
# ImageNet's size do not. They are decoded by several worker processes, while the device computes (`cbn_lab.stream`).
#
# ## 3. How fast could it be?
#
# Before you measure, compute two numbers: how many operations a step asks for, and how many bytes it moves. A measured
# speed says little without the limit that they set.
#
# **Statement (proved).** A device that does at most $P$ operations and moves at most $W$ bytes per second needs at
# least $\max(Q/P,\ D/W)$ seconds for $Q$ operations on $D$ bytes. So it does at most $\min(P,\ W\cdot Q/D)$
# operations per second.
#
# **Proof.** Each of the two alone takes that long. At best they overlap completely. Divide $Q$ by the time. $\square$
#
# $Q/D$ is called the *arithmetic intensity*, and the curve $\min(P, W\cdot Q/D)$ the *roofline* (Williams et al. 2009).
# Left of its corner a layer waits for memory, right of it for arithmetic. Now count, forward and backward, per value of
# a map, at 2 bytes a value (bf16):
#
# - **3 x 3 convolution, $C$ channels in and out.** An output value takes $9C$ multiplications and as many additions:
#   $18C$ operations. The backward pass has two such products. In all $54C$ operations. Each of the three products
#   reads or writes two maps: 6 maps (the weights are small beside them). $Q/D = 54C/12 = 4.5\,C$.
# - **BN.** Forward: read $x$ for the statistics, read it again to normalize, write $y$: 3 maps. Backward: read
#   $\partial F/\partial y$ and $x$ for the two sums of notebook 01's formula, read both again and write
#   $\partial F/\partial x$: 5 maps. **8 maps** in all, and some 20 operations. $Q/D = 20/16$, about 1, *whatever the
#   number of channels*.
# - **ReLU.** Forward 2 maps, backward 3. One operation each way. $Q/D = 2/10$.
#
# **Exercise 8.3** Layers run one after the other. Write the least time that they can take.

# %%
ex = exercise("8.3")


def least_seconds(layers, values, peak, bandwidth):
    """The least time in seconds of layers that run one after the other.

    layers: for each (operations per value, maps moved); values: how many one map has, each of 2 bytes; peak in
    operations per second; bandwidth in bytes per second.
    """
    raise NotImplementedError


ex.check(least_seconds)

# %%
least = ex.use(least_seconds)
DEVICES = limits.SHEETS  # name -> (operations/s, bytes/s), dense bf16 (T4: fp16), reported by data sheets


def share_of_norm(device, channels):
    """% of the least time of a block (convolution, BN, ReLU) that BN and ReLU take."""
    block = [(54 * channels, 6), (20, 8), (2, 5)]
    return 100 * least(block[1:], 10**6, *DEVICES[device]) / least(block, 10**6, *DEVICES[device])


peak, bandwidth = DEVICES["NVIDIA H100"]
widgets.predict_number("8-share", f"A block of convolution, BN and ReLU with 64 channels, H100 ({peak / 1e12:.0f} "
                       f"trillion operations/s, {bandwidth / 1e12:.2f} TB/s): which share of its least time do BN and "
                       "ReLU take?",
                       {"the formula": [share_of_norm("NVIDIA H100", 64)]}, low=0, high=100, tolerance=10,
                       what="share of the time (%)", step=1)

# %% jupyter={"source_hidden": true} cellView="form"
layers = {"ReLU": 2 / 10, "BN": 20 / 16, "conv, 64": 54 * 64 / 12, "conv, 512": 54 * 512 / 12}
rows = "".join(f"<tr><td>{device}</td>" + "".join(f"<td>{share_of_norm(device, channels):.0f} %</td>"
                                                  for channels in (32, 64, 128, 512)) + "</tr>" for device in DEVICES)
discussion(figures.roofline(DEVICES, layers),
           "<p>BN and ReLU lie on the slope of every device: they wait for memory. Their share of the least time of a "
           "block, by channels:</p><table><tr><th></th><th>32</th><th>64</th><th>128</th><th>512</th></tr>"
           f"{rows}</table>",
           "<p>A convolution with few channels does not keep the arithmetic busy either. With many it does, and then "
           "the share of the norm falls. There a GPU that computes faster makes that share <em>larger</em>, one with "
           "faster memory makes it smaller. Where all three wait for memory, it is the same on every GPU.</p>")

# %% tags=["nbval-ignore-output"]
# The same for the whole net of this notebook, counted operator by operator (cbn_lab.bench.kernels).
with ladder.images_for(settings, DATA) as (found, _):
    counting = replace(found, precision="bf16", device="cpu")  # counted, not timed
    costs = kernels.count(Trainer(replace(counting, batch_size=n), root=DATA) for n in (2, 4))
B = settings.batch_size
operations, moved = sum(k.flop for k in costs), sum(k.bytes + k.step_bytes / B for k in costs)

half = {"bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]
product, copy = limits.machine(settings.device, half)  # a large product of matrices, a large copy
seconds = alternate({"product": product.run, "copy": copy.run}, repeats=7)
here = product.amount / median(seconds["product"]), copy.amount / median(seconds["copy"])
fastest, rows = {}, [("device", "images/s at most, by operations alone", "by bytes alone", "kernel by kernel",
                      "norms' share of that time")]
for device, machine in {**DEVICES, f"{runs.device_name(settings.device)}, measured now": here}.items():
    parts = limits.by_kind(costs, lambda kernel, machine=machine: limits.least_seconds(kernel, B, *machine))
    fastest[device] = 1 / sum(parts.values())
    rows.append((device, f"{machine[0] / operations:,.0f}", f"{machine[1] / moved:,.0f}", f"{fastest[device]:,.0f}",
                 f"{100 * parts['norm'] * fastest[device]:.0f} %"))
display(Markdown(f"The net of this notebook asks for **{operations / 1e9:.3f} billion operations** (of convolutions "
                 f"and matrix products) and **{moved / 1e6:.2f} MB** per image, in bf16 with batches of {B}."),
        Table(rows))

# %% [markdown]
# Read the table from left to right. By operations alone the net could be trained much faster than by bytes alone on
# every GPU: it waits for memory. Kernel by kernel is slower than both, since the arithmetic of one kernel does not
# overlap with the memory of the next one. The last line is your machine, with $P$ from a product of matrices and $W$
# from a copy. (On a CPU, whose caches keep a map or several, a step may beat this limit.) A loop that reached these
# numbers would never wait for the processor, nor for Python.
#
# ### Why a fused kernel matters
#
# The 8 maps are those of a kernel that does all of BN in two passes each way. What if BN is written in plain tensor
# operations, as in notebook 01? Each operation then is a kernel of its own, which reads its inputs from memory and
# writes its result back. Count that, and time it: below, each operator reports how many whole maps go in and out.

# %% tags=["nbval-ignore-output"]
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Maps(TorchDispatchMode):
    """Counts the maps of `size` values that operators read and write; views move nothing."""

    def __init__(self, size):
        super().__init__()
        self.size, self.moved, self.operators = size, 0, 0

    def _maps(self, values):
        return sum(isinstance(v, torch.Tensor) and v.numel() == self.size and
                   v.untyped_storage().nbytes() >= v.numel() * v.element_size() for v in tree_leaves(values))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        moved = 0 if function.is_view else self._maps(args) + self._maps(result)
        self.moved, self.operators = self.moved + moved, self.operators + (moved > 0)
        return result


x = torch.randn(16, 64, 32, 32).to(settings.device, memory_format=torch.channels_last).requires_grad_()
dy = torch.randn_like(x)
named = {"convolution": nn.Conv2d(64, 64, 3, padding=1, bias=False), "BN, fused (torch's)": nn.BatchNorm2d(64),
         "BN, written out (notebook 01's)": norms.BatchNorm2d(64), "ReLU": nn.ReLU()}
named = {name: layer.to(settings.device, memory_format=torch.channels_last) for name, layer in named.items()}
work = {name: lambda layer=layer: torch.autograd.grad(layer(x), [x, *layer.parameters()], dy)[0][0, 0, 0, 0].item()
        for name, layer in named.items()}
rows = [("forward and backward, float32, 64 channels", "operators", "maps in and out", "ms, median of 7")]
for name, times in alternate(work, repeats=7).items():
    with Maps(x.numel()) as maps:
        work[name]()
    rows.append((name, maps.operators, maps.moved, f"{1000 * median(times):.1f}"))
Table(rows)

# %% [markdown]
# For torch's layers the count shows what goes in and out of *one* operator each way. Inside, fused BN reads its inputs
# twice, as each value depends on all of them: that makes the 8. The layer that is written out moves several times as
# much, and asks for memory for each result. The last column is what both cost on your machine (*measured*). That is why
# the library normalizes with the fused kernel wherever it can. Our reconstruction of CBN (complete batch normalization)
# does too: it has *one* norm per block, like vanilla BN, and its two shifts (notebook 06) ride on kernels that are
# there anyway.
#
# **What you should now believe, and how sure we are.** Normalization is bound by memory on every device that can do
# more than one or two operations per byte that it moves, and that is every GPU (*proved* from counts; peaks *reported*
# by data sheets). A fused kernel moves a fraction of what the formulas would move one by one (*proved* by counting
# operators). The limits are lower bounds of the time. How near a real loop comes, only a measurement tells.
#
# ## 4. One change at a time
#
# Now the whole way. Each rung below takes over everything from the rung above it and replaces **one** thing. They are
# classes, so that this can be read off: what a class does not define, it has from the class in brackets. The first one
# is `Student` of section 1.
#
# - **No waiting.** The losses are kept on the device and read once for several steps.
# - **Images on the device.** As in section 2.
# - **Channels last.** Memory is a line. Usually all pixels of channel 1 come first, then those of channel 2 (`NCHW`).
#   The fast convolution kernels want all channels of a pixel side by side (`NHWC`; *folklore*, until you have measured
#   this rung). Same numbers, another order in memory. If one tensor has the wrong order, somewhere a kernel copies.
# - **Half precision.** Inside torch's `autocast` convolutions and matrix products run in bf16, or in fp16 on GPUs
#   without bf16. The weights stay in float32. Section 5 says what else has to.
# - **Fused optimizer.** One kernel for all parameters, instead of several for each.
# - **The library's loop** (`cbn_lab.train.Trainer`) is the last of these. It adds a schedule for the learning rate, the
#   training accuracy, a check for losses that are not finite, and records. That should cost nothing.
# - On a GPU two more are possible. **Compile** fuses operators into fewer kernels. **CUDA graphs** record all launches
#   of a step once and replay them as one. That helps if launches are what takes the time.

# %%
show_code(ladder.NoWaiting, ladder.OnDevice, ladder.ChannelsLast, ladder.HalfPrecision, ladder.FusedOptimizer)

# %% tags=["nbval-ignore-output"]
# Does a change alter the numbers? Six steps of each rung with one seed, on the CPU.
six = replace(ladder.config(device="cpu", batch_size=32, steps=1), precision="bf16", train_images=192)
losses = {}
with ladder.images_for(six, DATA) as (config, images):
    for rung in ladder.EAGER[:-1]:
        torch.manual_seed(0)  # from which the DataLoader draws
        arm = rung(config, images)
        losses[rung] = [arm.part() for _ in range(6)]
rows = [("rung", "one change of", "its losses should be", "difference of the losses: step 1", "step 6")]
for rung in ladder.RUNGS:
    other, apart = ladder.above(rung), ("", "")
    if rung in losses and other in losses and rung is not ladder.OnDevice:  # that one has other images
        apart = (f"{abs(losses[rung][step] - losses[other][step]):.0e}" for step in (0, -1))
    rows.append((rung.title, other.title if other else "", rung.numbers, *apart))
Table(rows)

# %% [markdown]
# No waiting changes nothing at all. Another order in memory changes the last digits of the first loss, since sums are
# taken in another order; half precision changes more of them. And what begins in the last digits grows from step to
# step, as in notebook 01. So two fast loops do not end with the same numbers, and none of them is wrong. (A test of
# this course checks the third column, with the same order and the same crops in every rung.)
#
# ### How to measure
#
# - *Warm up.* The first steps choose kernels, allocate memory, compile.
# - *Read the clock when the device is done.* On a GPU, a timer around a call measures how long it took to hand out the
#   work. Each timed part here ends with reading a loss.
# - *Alternate.* A B C A B C ... : other work on the machine then hits all of them. One A B C is a *round* (in
#   records: a repeat).
# - *Take ratios within a round*, then the median over the rounds, and show the range. One number says nothing about the
#   next one.
# - *Say on what*: device, threads, versions, net, batch.
#
# **Guess.** Which single change gives most on the recorded CPU? Put them in order. The net has six convolutions, the
# CPU has units for bf16. (In the result, what is called a seed is a round.)

# %%
recorded = {found.device: found for found in speeds.records() if found.settings["model"] == "convnet"}
cpu = next(found for found in recorded.values() if found.settings["device"] == "cpu")
CHANGES = [rung.title for rung in (ladder.ChannelsLast, ladder.NoWaiting, ladder.HalfPrecision, ladder.FusedOptimizer,
                                   ladder.OnDevice)]
widgets.predict_ranking("8-change", f"{cpu.device}: which change makes the loop faster by the largest factor?", CHANGES,
                        {change: cpu.gains(change) for change in CHANGES},
                        metric="times as fast as the one it changes")

# %% jupyter={"source_hidden": true} cellView="form"
best = max(cpu.above, key=lambda rung: median(cpu.gains(rung)))
whole = cpu.gains(ladder.Library.title, ladder.Student.title)
none = [rung for rung in cpu.above if min(cpu.gains(rung)) <= 1 <= max(cpu.gains(rung))]
bench = json.loads(Path("../results/bench/throughput.json").read_text())
alone = next(row for row in bench["rows"] if row["name"].startswith("throughput, before"))
discussion(figures.speed_ladder(recorded),
           f"<p>{cpu.device}, {cpu.setting()}, torch {cpu.provenance['versions']['torch']}. In all the library's loop "
           f"is {median(whole):.2f} times as fast as the usual script (range over the rounds {min(whole):.2f} to "
           f"{max(whole):.2f}). The largest change is <em>{best}</em>, {median(cpu.gains(best)):.2f} times.</p>"
           f"<p>Not told apart from no change, by the range over the rounds: {', '.join(none) or 'none'}.</p>"
           f"<p>{'Note of the record: ' + html.escape(cpu.note) + '.' if cpu.note else ''}</p>"
           "<p>One thing is the same for all rungs, so that it is no change: they share a process, in which the C "
           "library keeps freed memory for the next step (the library's loop asks for that on a CPU). The script alone "
           "in a process of its own does not have that. Measured so (<code>cbn-lab bench --only throughput</code>, "
           f"{html.escape(bench['provenance']['device'])}, {alone['notes']['threads']} threads), the library's loop is "
           f"{alone['value']:.2f} times as fast as the script.</p>")

# %% [markdown]
# ### Your machine
#
# The next measurement runs the rungs down to the library's loop on what you have, in about half a minute on two CPU
# cores. Before you run it: which rungs will come out differently from the recorded ones, and why?
#
# **Exercise 8.4** First write what turns timed rounds into an answer.

# %%
ex = exercise("8.4")


def speed_up(before, after):
    """(median, least, most) over the rounds: how many times as fast `after` is as `before`.

    before, after: seconds for the same work, a number per round; before[i] and after[i] were timed in the same round.
    """
    raise NotImplementedError


ex.check(speed_up)

# %% tags=["nbval-ignore-output"]
gain = ex.use(speed_up)
live = ladder.measure(ladder.config(steps=1 if settings.device == "cpu" else 5), root=DATA, rungs=ladder.EAGER)
seconds = {rung: [1 / speed for speed in values] for rung, values in live.images_per_second.items()}  # per image
rows = [("rung", "images/s", "times as fast as the rung above", "told apart from no change")]
for rung in seconds:
    middle, low, high = gain(seconds[live.above.get(rung, rung)], seconds[rung])
    rows.append((rung, f"{live.speed(rung):,.0f}", *((f"{middle:.2f} ({low:.2f} to {high:.2f})", (
        "no" if low <= 1 <= high else "yes")) if rung in live.above else ("", ""))))
reached = live.speed(ladder.Library.title) / list(fastest.values())[-1]
there = "; ".join(f"{found.device} ({found.setting()})" for found in speeds.records())
gpus = [found for found in speeds.records() if found.settings["device"] != "cpu"]
missing = "" if gpus else "**No GPU has been recorded yet**, so this notebook claims nothing about the speed of one. "
display(Markdown(f"**{live.device}: {live.setting()}**"), Table(rows),
        Markdown(f"The library's loop reaches {100 * reached:.0f} % of this machine's limit (section 3, last line)."),
        widgets.speed_explorer({**recorded, f"yours, now: {live.device}": live}),
        Markdown(f"**Recorded:** {there}. {missing}On a machine with a GPU, `python -m cbn_lab.ladder --out "
                 "results/speed` adds yours, with compile and CUDA graphs; `--model resnet18` adds a larger net."))

# %% [markdown]
# Read the left panel for how fast, and the right one for what a change gave. A marker is the median over the rounds, a
# line their range. A line that crosses 1 is a change that this measurement does not tell from none. On a machine that
# does other work as well, most lines do. Three more things to look at:
#
# - The share of the limit. What is missing to 100 % is work that the limit leaves out, or waiting. More than 100 % is
#   possible on a CPU, whose caches save traffic, or if the machine was busier when $P$ and $W$ were measured.
# - `.item()`. On a CPU there is no lead to lose. Does its line cross 1? On a GPU it can matter (*folklore*, until you
#   have measured it on yours).
# - The order of the rungs matters. A change shows only when it is the slowest part that gets faster. Would half
#   precision give as much while PIL still makes the images? The menu `compared with` does not answer that. A class
#   of a few lines does (*Going further*).
#
# **What you should now believe, and how sure we are.** On the recorded CPU the way from the usual script to the
# library's loop is worth a factor, the one in the discussion. It comes from some of the changes; the others are not
# told apart from none (*measured*: one machine, one net, the rounds above). That other devices gain from other changes
# is *folklore* here. So measure yours.
#
# ## 5. Half precision
#
# | format | bits of the significand, the leading 1 included | largest value | smallest normal value |
# |---|---|---|---|
# | float32 | 24 | $3\cdot10^{38}$ | $10^{-38}$ |
# | bf16 | 8 | $3\cdot10^{38}$ | $10^{-38}$ |
# | fp16 | 11 | 65,504 | $6\cdot10^{-5}$ |
#
# bf16 has the range of float32 and less than 3 decimal digits. fp16 has more than 3 digits and a small range. Both have
# consequences for a norm.
#
# **Statement (proved).** A sum of ones, added one by one in bf16, stops at 256.
#
# **Proof.** With 8 bits of significand, all integers up to $2^8 = 256$ can be written, and above 256 only the even
# ones. $256 + 1$ lies in the middle between 256 and 258 and is rounded to the one with an even significand, 256.
# $\square$
#
# So a mean over a mini-batch must not be *accumulated* in bf16, though its result may be stored in it. torch's `sum()`
# accumulates in float32 for that reason, as you will see. Running statistics are such a sum as well: an update that is
# smaller than half a step of the format (from one of its numbers to the next) is lost. And in fp16 the square of 300 is
# infinite.
#
# **Exercise 8.5** Write BN's forward pass for values in half precision, with float32 where it is needed.

# %%
ex = exercise("8.5")


def half_norm(x, running_mean, momentum=0.1, eps=1e-5):
    """BN in training mode, without gamma and beta: (y in the dtype of x, the new running mean in float32).

    x [n, C], bf16 or fp16; running_mean [C], float32, is not changed itself; eps is added to the biased variance.
    """
    raise NotImplementedError


ex.check(half_norm)

# %%
norm = ex.use(half_norm)
total, running = torch.zeros((), dtype=torch.bfloat16), torch.tensor(100.0)
rounded = running.bfloat16()
for _ in range(1000):
    total = total + 1
for _ in range(200):  # the batches have mean 101, momentum 0.1
    running, rounded = running.lerp(torch.tensor(101.0), 0.1), rounded.lerp(torch.tensor(101.0).bfloat16(), 0.1)
print(f"1000 ones, added one by one in bf16: {float(total):g}; by sum(), float32 inside: "
      f"{float(torch.ones(1000, dtype=torch.bfloat16).sum()):g}")
print(f"running mean after 200 updates, float32: {float(running):.3f}; bf16: {float(rounded):.3f}")

signal = torch.randn(4096, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
exact = (signal - signal.mean()) / signal.std(correction=0)


def off(y):
    return f"{float((y.double() - exact).square().mean().sqrt()):.3f}"


rows = [("mean of x (its std is 1)", "neighbours in bf16 are apart", "error of y: all in bf16",
         "bf16 outside, float32 inside", "fp16 outside, float32 inside")]
for mean in (0.3, 3.3, 33.3, 333.3, 3333.3):
    x = (mean + signal).bfloat16()
    centred = x - x.mean(0)
    step = 2.0 ** (torch.tensor(float(mean)).log2().floor().item() - 7)
    rows.append((f"{mean:,}", f"{step:.2g}", off(centred / (centred.square().mean(0) + 1e-5).sqrt()),
                 *(off(norm((mean + signal).to(kind), torch.zeros(1))[0]) for kind in (torch.bfloat16, torch.float16))))
Table(rows)

# %% [markdown]
# Near 100 the numbers of bf16 are 0.5 apart, so an update of 0.1 is lost each time, and the running mean never moves.
#
# The table compares BN's output with that of the signal before it was rounded (root mean square of the difference; 1 is
# what an output of zeros would have). Float32 inside helps where the rounding of the mean was the trouble.
# It does not bring back what was rounded *before*: at a large mean all values of x become a few numbers, or one, in
# whatever format the statistics are. A signal that was standardized does not have that problem. So half precision and
# normalization suit each other: the norm keeps the signal where the format has its digits. Its own inside, means,
# variances and running statistics, stays in float32. So do $\gamma$ and the shifts; they are few.
#
# ### Gradients in fp16
#
# fp16 has another trouble. Gradients are small. Below its smallest normal value fp16 has fewer and fewer digits, and
# what is below about $3\cdot10^{-8}$ (half of $2^{-24}$, its smallest positive number) becomes 0. *Loss scaling*
# multiplies the loss with a large number $s$, and so by the chain rule every gradient; the optimizer divides by $s$ in
# float32. If a scaled gradient overflows, the step is left out and $s$ is halved.

# %%
w, h = nn.Parameter(torch.tensor([1.0, 1.0])), torch.tensor([1e-4, 1.0]).half()
optimizer, scaler = torch.optim.SGD([w], lr=1.0), torch.amp.GradScaler("cpu", init_scale=2.0**14)


def said(name, gradient):
    print(f"{name:<22} {gradient[0]:.2e}  {gradient[1]:.2e}")


def gradient_of(factor, scale):
    """The gradient of factor * sum(w * h), which is factor * h, computed in fp16."""
    optimizer.zero_grad()
    scale(factor * (w.half() * h).sum().float()).backward()
    return w.grad


said("wanted", 1e-4 * h.double())
said("in fp16", gradient_of(1e-4, lambda loss: loss))
said(f"loss times {scaler.get_scale():,.0f}", gradient_of(1e-4, scaler.scale))
scaler.unscale_(optimizer)
said("unscaled, in float32", w.grad)
scaler.step(optimizer)
scaler.update()
before = w.detach().clone()
said("too large a gradient", gradient_of(100.0, scaler.scale))  # 100 times the scale is more than fp16 holds
scaler.step(optimizer)
scaler.update()
print(f"weights unchanged: {torch.equal(before, w)}; the scale is now {scaler.get_scale():,.0f}")

# %% [markdown]
# **What you should now believe, and how sure we are.** Sums and running statistics of a norm need float32 (*proved*:
# the sum that stops). bf16 needs no loss scaling, as it has float32's range; fp16 does where gradients are that small
# (*proved* by the numbers above). That a training in half precision ends as well as one in float32 is *reported* by
# many (Micikevicius et al. 2018) and not tested in this notebook.
#
# ## 6. Many devices
#
# *Data parallel* training: each of $R$ processes, the *ranks*, has the whole net on a device of its own and takes a
# share of every batch. After the backward pass the gradients are averaged over the ranks (an *all-reduce*). Then all
# ranks make the same step and stay equal.
#
# For a net without norms that is the same as one process with the whole batch. With BN it is not. By default each rank
# normalizes its own share. Then there are two batch sizes: the *optimizer batch* $B$, and the *normalization batch*,
# which is $B/R$. If they are to be equal, the statistics must be *synchronized*.
#
# **Statement (proved).** Let rank $r$ have $n_r$ values with mean $\mu_r$ and sum of squares $M_{2,r}=\sum_i
# (x_{ri}-\mu_r)^2$. Then with $n=\sum_r n_r$ all values together have
#
# $$ \mu = \frac1n\sum_r n_r\mu_r,\qquad M_2 = \sum_r\Big(M_{2,r} + n_r(\mu_r-\mu)^2\Big),\qquad v = M_2/n. $$
#
# **Proof.** $n_r\mu_r$ is the sum on rank $r$; add up and divide. For the second, on each rank
# $\sum_i(x_{ri}-\mu)^2 = \sum_i(x_{ri}-\mu_r+\mu_r-\mu)^2 = M_{2,r} + 2(\mu_r-\mu)\sum_i(x_{ri}-\mu_r) +
# n_r(\mu_r-\mu)^2$. The sum in the middle is 0 by the definition of $\mu_r$. Add up over the ranks. $\square$
#
# The mean of the ranks' variances leaves out the second term, how far their means are apart. For equal shares it is too
# small as soon as two means differ. By how much?
#
# **Statement (proved).** If the values are drawn independently with variance $\sigma^2$, the expectation of each rank's
# biased variance is $\frac{n_r-1}{n_r}\sigma^2$, and so is that of their mean for equal shares.
#
# **Proof.** Notebook 01, section 5: dividing by $n_r - 1$ makes the estimate unbiased. $\square$
#
# **Exercise 8.6** Write the joint mean and variance. A rank learns of the others only through `all_sum`.

# %%
ex = exercise("8.6")


def spread_moments(x, all_sum):
    """(mean, biased variance), [C] each, of the values of *all* ranks.

    x [n, C]: the values of this rank; n differs between ranks and may be 0. all_sum(tensor): the sum of what all
    ranks pass in the same call.
    """
    raise NotImplementedError


ex.check(spread_moments)

# %%
moments = ex.use(spread_moments)
pixel = (digits.images[:256, 3, 4].double() / 255)  # one pixel of 256 digits, in the order of the file
by_class = pixel[digits.labels[:256].argsort(stable=True)]
exact = float(pixel.var(0, correction=0).sum())
rows = [("ranks", "values a rank", "joint variance / exact", "mean of variances / exact", "the same, sorted by class")]
for ranks in (1, 4, 32, 128):
    joint = ex08_moments.on_ranks(lambda x, all_sum: moments(x, all_sum)[1], pixel.chunk(ranks))[0]
    naive = [float(torch.stack([share.var(0, correction=0) for share in values.chunk(ranks)]).mean(0).sum())
             for values in (pixel, by_class)]
    rows.append((ranks, 256 // ranks, f"{float(joint.sum()) / exact:.3f}", *(f"{v / exact:.3f}" for v in naive)))
Table(rows)

# %% [markdown]
# The joint variance does not depend on how the values are spread. The mean of the variances does. In the order of the
# file what is missing is about $1/n_r$, as the second statement has it. Where a rank sees few classes it is much more,
# as the means are further apart. So statistics per rank depend on how the data are dealt out.
#
# ### The gradient
#
# Averaging the ranks' gradients is right if all shares are equal. If not, an image on a rank with few images counts
# more.
#
# **Exercise 8.7** By what must each rank multiply its loss?

# %%
ex = exercise("8.7")


def share_weight(mine, total, ranks):
    """What a rank multiplies its loss with, so that the mean of all ranks' gradients is that of the whole batch.

    The loss is the mean over the rank's `mine` images; the batch has `total` images on `ranks` ranks.
    """
    raise NotImplementedError


ex.check(share_weight)

# %%
weight = ex.use(share_weight)
torch.manual_seed(0)
layer = nn.Linear(64, 10).double()
inputs, labels = digits.images[:20].flatten(1).double() / 255, digits.labels[:20]


def gradient(rows, factor=1.0):
    loss = F.cross_entropy(layer(inputs[rows]), labels[rows])
    return torch.autograd.grad(factor * loss, layer.weight)[0]


shares = [slice(0, 3), slice(3, 20)]  # two ranks, three images and seventeen
plain = sum(gradient(rows) for rows in shares) / 2
weighted = sum(gradient(rows, weight(rows.stop - rows.start, 20, 2)) for rows in shares) / 2
exact = gradient(slice(0, 20))
for name, mean in {"averaged as they are": plain, "weighted by their shares": weighted}.items():
    print(f"{name:<25} off the gradient of the batch by {100 * float((mean - exact).norm() / exact.norm()):.1f} %")

# %% [markdown]
# ### torchrun
#
# One program, started several times. `torchrun` starts it, tells each process its rank, and ends all if one dies
# (`--standalone`: all on this machine, through a port that is free):
#
# ```bash
# torchrun --standalone --nproc-per-node 4 -m cbn_lab.cli train --data cifar10 --model resnet18 --batch-size 512 \
#     --sync-norm --out runs
# ```
#
# Each of the 4 processes takes a GPU of its own, and a quarter of every batch of 512. Without `--sync-norm` the
# normalization batch is 128. The record states both.
#
# It works on a CPU as well. Below, one epoch on the digits: in this process, then in two with synchronized statistics,
# then in two with statistics per rank. Nothing is timed here. The point is whether they compute the same.

# %% tags=["nbval-ignore-output"]
config = TrainConfig(data="digits", activation="tanh", epochs=1, device="cpu", precision="fp32", log_every=1)
one = fit(config)


def in_two_ranks(*options):
    """The record of `config` in two processes, and what they wrote, if there is no record."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "cbn_lab.cli", "train", "--data", "digits", "--activation", "tanh", "--epochs", "1", "--device", "cpu",
               "--precision", "fp32", "--log-every", "1", *options, "--out"]
    around = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run([*command, folder], env=around, capture_output=True, text=True, timeout=55)
        except subprocess.TimeoutExpired as error:
            return None, str(error)
        return next((run for run in runs.load_all(folder) if run.status == "finished"), None), done.stderr


def compared(run, wrote):
    if run is None:
        return f"could not be run here: {wrote.strip()[-300:]}"
    apart = [abs(ours["loss"] - theirs["loss"]) for ours, theirs in zip(one.curve, run.curve, strict=True)]
    return (f"loss off that of one process by {apart[0]:.0e} in the first step, {max(apart):.0e} at most; "
            f"images that share a mean: {run.provenance['ranks']['normalization_batch'][0]}")


print("two ranks, synchronized:", compared(*in_two_ranks("--sync-norm")))
print("two ranks, statistics per rank:", compared(*in_two_ranks()))

# %% [markdown]
# Synchronized, the two ranks give the losses of one process up to rounding. With statistics per rank, the first loss is
# another already: the net is normalized by other moments. Neither is wrong. They are two methods, and a record has to
# say which.
#
# **What you should now believe, and how sure we are.** Count, mean and $M_2$ of the shares give the moments of the
# whole batch exactly; the mean of variances does not (*proved*). The library's synchronized ranks compute what one
# process computes (*measured* above and tested with 2 and 4 ranks, in forward pass, gradients and buffers). What many
# GPUs gain in speed was not measured here: there was no second device.
#
# How good were your guesses, and how well did you know it?

# %%
widgets.my_calibration()

# %% [markdown]
# ## Summary
#
# | claim | label |
# |---|---|
# | an `if`, a print, `.item()` and a mask as index need a value; sums do not (1) | proved by watching operators |
# | on a GPU the processor then waits (1) | reported (PyTorch, *CUDA semantics*) |
# | augmenting at once on uint8 gives the same pixels (2) | measured here pixel by pixel, and tested |
# | it is faster than one by one on a CPU already (2) | measured, on your machine |
# | a norm has about one operation per byte, so it waits for memory (3) | proved; peaks reported |
# | a fused norm moves 8 maps, one written out several times as many (3) | proved by counting |
# | the way to the fast loop comes from some changes; others are not told apart from none (4) | measured, recorded CPU |
# | other devices gain from other changes (4) | folklore |
# | the fast loop computes the same up to rounding, but for half precision and the schedule (4) | measured, in a test |
# | sums and running statistics in bf16 stop; small gradients in fp16 need loss scaling (5) | proved |
# | training in half precision ends as well as in float32 | reported (Micikevicius et al. 2018) |
# | joint moments from count, mean, $M_2$; mean of variances too small (6) | proved |
# | synchronized ranks compute what one process computes (6) | measured, here: two ranks on a CPU |
#
# ## Exercises
#
# The checked ones stand in the sections: waiting, 8.1 (1); crops, 8.2 (2); least time, 8.3 (3); gains, 8.4 (4); a norm
# in half precision, 8.5 (5); moments over ranks, 8.6, and unequal shares, 8.7 (6).
#
# ## Going further
#
# Two open questions, which nothing checks. Below each, what a good answer contains.
#
# - *The order of the rungs.* Write a class that is `ladder.Student` with the `step`, `scaler` and `device_type` of
#   `ladder.HalfPrecision` and a `title` of its own. Measure it against `ladder.Student` (`ladder.measure(settings,
#   rungs=...)`). Is half precision worth as much there? A good answer gives both gains with their ranges, and explains
#   the difference from section 1's two shares: only the step's share gets faster.
# - *Your machine's limit.* What takes the rest of the time, beside the share of the limit that the loop reaches on your
#   machine? A good answer names the kinds of work by their share of the time (`cbn-lab bench --only limits` asks
#   torch's profiler), and says for each whether it waits for operations, bytes, or the processor.
#
# And to read or run:
#
# - `python -m cbn_lab.ladder --help`: other nets, other batches. `cbn-lab bench --only gpu` compares the placements
#   on a GPU.
# - The fast loop itself: `cbn_lab/train.py`; several processes: `cbn_lab/distributed.py`; synchronized moments with
#   gradients: `cbn_lab/norms/sync.py`.
# - cifar10-airbench trains CIFAR-10 to 94 % in seconds (*reported*, on an A100: 3.83 s, compiled 3.29 s). It uses many
#   tricks that would confound a study of normalization, so this course leaves them out. Its code is worth reading.
# - Notebook 09 uses the speed: many runs, and what they say about the claims.
#
# ## References
#
# - S. Williams, A. Waterman, D. Patterson, *Roofline: An Insightful Visual Performance Model*, Communications of the
#   ACM 52(4), 2009.
# - P. Micikevicius et al., *Mixed Precision Training*, ICLR 2018, arXiv:1710.03740.
# - T. F. Chan, G. H. Golub, R. J. LeVeque, *Algorithms for Computing the Sample Variance*, The American Statistician
#   37(3), 1983.
# - P. Goyal et al., *Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour*, 2017, arXiv:1706.02677 (statistics
#   per device, by what the loss is divided).
# - K. Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, arXiv:2404.00498 (cifar10-airbench).
# - PyTorch documentation, *CUDA semantics*, section on asynchronous execution; torchvision documentation,
#   *Transforming and augmenting images*.
# - NVIDIA, data sheets of T4, A100 (SXM, 80 GB), H100 (SXM) and H200 (SXM): peaks without sparsity.
