"""A run as a stand-alone script of plain PyTorch, without cbn_lab, that reproduces its numbers.

`script(config)` writes what these settings need and nothing else: data, network, drawn weights, SGD, and after each
epoch the loss of its last batch and the accuracy. Where `train.fit` runs fused kernels the script runs the same ones,
and what fit draws at random the script draws in the same order, so that on one machine, with one version of PyTorch,
the losses agree to the last bit (for weights of fewer than 16 numbers: nearly). Settings that change no number are left
out: `evaluate_every`, `log_every`, `compile`, `cuda_graphs`, `sync`, `sync_norm`.

Our CBN is a reconstruction, and the script says so. In it a CBN layer is a weight layer with a bias (the pre-shift;
behind the sum of a residual net it is a layer of its own), the activation, and a batch norm behind it; a shift with the
multiplier k is stored as a and used as sqrt(k) a. (A hook that multiplies its gradient by k would save a line and is
equal but for rounding, which training amplifies: with relu in the default convnet the loss of a batch was off by up to
0.03 to 0.1 nats, in 8 of 8 seeds, 10 epochs, on a CPU.)
"""

import re

import torch

from cbn_lab import _export_network as network
from cbn_lab import data, models, share
from cbn_lab._export_text import LINE, wrapped
from cbn_lab.config import TrainConfig

STATE = "CBN Lab state:"  # stands in the first line of a script, before the state
GOES_ON = "\\"  # ends a line of the state that goes on in the next: half a state would be another one
# data set -> (class in torchvision, channels, pixels a side, classes, training images, test images)
_SETS = {"digits": ("", 1, 8, 10, 1415, 382), "cifar10": ("CIFAR10", 3, 32, 10, 50000, 10000),
         "cifar100": ("CIFAR100", 3, 32, 100, 50000, 10000)}
# scale = 1 / (255 std) and shift = -mean / std per channel of the whole training split, as `data.load` computes them:
# exact in float32. Those of the digits are for their own values, 0 to 16.
_DIGITS = "0.166409039", "0.813232244"
_STATISTICS = {"cifar10": ("0.015874725, 0.016105989, 0.014991403", "-1.9892128, -1.9802376, -1.7070018"),
               "cifar100": ("0.014669157, 0.015292435, 0.01420084", "-1.8967831, -1.8973318, -1.596658")}
_LOW = {"bf16": "bfloat16", "fp16": "float16"}
# What a script may import from torch, where it is used.
_FROM_TORCH = ("addcmul", "arange", "autocast", "bfloat16", "channels_last", "float16", "from_numpy", "func",
               "manual_seed", "nn", "no_grad", "optim", "rand", "randint", "randn", "randperm", "rsqrt", "tanh",
               "tensor", "var_mean", "where")


def script(config: TrainConfig, *, root=None) -> str:
    """The script of these settings, with "auto" resolved as on this machine.

    CIFAR is read from data/NAME.npz where that is the file that `data.load` finds (`root` is looked into first), since
    the order of its images may differ from torchvision's; else torchvision downloads it.

    Raises ValueError for a data set, model, activation, placement or norm that plain PyTorch does not have, and what
    `models.build` raises for settings that make no network.
    """
    header, config = _header(config), config.resolved()
    if config.data not in _SETS:
        raise ValueError(f"the script can load {', '.join(_SETS)}, not {config.data!r}; export with one of these and "
                         "replace the lines that load the data")
    if config.model not in network.MODELS:
        raise ValueError(f"there is a script for the models {', '.join(network.MODELS)}, not for {config.model!r}; "
                         "choose one of these, or train this one with `cbn-lab train`")
    if config.ranks > 1 or config.image_size is not None:
        raise ValueError("the script trains in one process on images as they are; export with ranks=1 and without an "
                         "image_size")
    _, channels, size, classes, available, _ = _SETS[config.data]
    with torch.random.fork_rng(devices=[]):  # refuses what is no network, in its own words
        models.build(config.model, num_classes=classes, in_channels=channels, image_size=size,
                     activation=config.activation, placement=config.placement, norm_options=config.norm_options,
                     **config.model_options)
    net = network.describe(config, channels, size, classes)
    images = config.train_images or available - config.validation_images
    if not 2 <= images <= available - config.validation_images:
        raise ValueError(f"train_images={config.train_images} and validation_images={config.validation_images} do not "
                         f"fit into the {available} training images of {config.data}")
    parts = [_data(config, root), net.classes,
             [*net.model, *_weights(config, net)], net.forward,
             _optimizer(config, images), [*_training(config, images, net, root), *_evaluation(config, net)]]
    text = "\n\n".join("\n".join(lines) for lines in parts if lines)
    return "\n".join([*header, *_imports(config, root, text), "", text, ""])


def _header(config: TrainConfig) -> list[str]:
    """The state as comment lines, cut between two settings, and behind a comma where one alone is too long."""
    complete = "complete" in config.placement  # a name, or a list of names
    lines = [f"# {'Our reconstruction of CBN. ' * complete}{STATE} "]
    for setting in share.encode(config).split(" "):
        for piece in [f"{setting} "] if len(setting) < 116 else re.findall("[^,]+,?", f"{setting} "):
            if len(lines[-1] + piece.rstrip()) > 118:
                lines[-1] = f"{lines[-1].rstrip()} {GOES_ON}"
                lines.append("# ")
            lines[-1] += piece
    return [*lines[:-1], lines[-1].rstrip()]


def _imports(config: TrainConfig, root, text: str) -> list[str]:
    digits = config.data == "digits"
    code = re.sub(r"  # .*", "", text)
    names = [name for name in _FROM_TORCH if re.search(rf"(?<![\w.\"]){name}\b[.(,)]", code)]
    lines = [*(["from numpy.random import SeedSequence", "from sklearn.datasets import load_digits"] if digits else
               ["import numpy as np"]), *_import_line(names)]
    if config.precision == "fp16":
        lines.append("from torch.amp import GradScaler")
    if not digits and not _from_npz(config, root):
        lines.append(f"from torchvision.datasets import {_SETS[config.data][0]}")
    return lines


def _import_line(names: list[str]) -> list[str]:
    line = f"from torch import {', '.join(names)}"
    if len(line) <= LINE:
        return [line]
    return wrapped(f"from torch import ({', '.join(names)})")


def _from_npz(config: TrainConfig, root) -> bool:
    return data.available(root)[config.data] == f"{config.data}.npz"


def _data(config: TrainConfig, root) -> list[str]:
    """`labels` [N], and `crops` [N, 2 pad + 1, 2 pad + 1, C, H, W]: a view of the padded images, every cut of each.

    The channels lie last in memory, and so they do in what is indexed out of `crops`: channels_last, as in fit.
    """
    pad, move = config.crop_padding, _on_device(config)
    if config.data == "digits":
        scale, shift = _DIGITS
        pixels = "tensor(load_digits().images)"
        if pad:
            pixels = f"nn.ZeroPad2d({pad})({pixels})"
        kind = _low(config) or ".float()"
        return [f"images = ({scale} * {pixels} - {shift}){kind}[..., None]{move}",
                f"crops, labels = images.unfold(1, 8, 1).unfold(2, 8, 1), tensor(load_digits().target){move}"
                f"{'  # the first 1,415 are to train on' * (not move)}"]
    if _from_npz(config, root):
        load = [f'files = np.load("data/{config.data}.npz")  # not always in the order of torchvision',
                'pixels, labels = (from_numpy(np.concatenate([files[f"{name}_train"], files[f"{name}_test"]]))'
                f'{move} for name in "xy")']
    else:
        load = [f'train, test = ({_SETS[config.data][0]}("data", train=part, download=True) for part in (True, False))',
                f"pixels, labels = from_numpy(np.concatenate([train.data, test.data])){move}, "
                f"tensor(train.targets + test.targets){move}"]
    scale, shift = _STATISTICS[config.data]
    return [load[0], *wrapped(load[1]),
            f"crops = nn.functional.pad(pixels, (0, 0{f', {pad}' * 4})).unfold(1, 32, 1).unfold(2, 32, 1)",
            *wrapped(f"scale, shift = tensor([[{scale}], [{shift}]])[..., None, None]{move}")]


def _on_device(config: TrainConfig) -> str:
    return "" if config.device == "cpu" else f'.to("{config.device}")'


def _low(config: TrainConfig) -> str:
    return network.LOW.get(config.precision, "")


def _weights(config: TrainConfig, net: network.Network) -> list[str]:
    """Weights N(0, 1 / fan-in) from the generator of `models.build`, biases 0. They may lie in memory as channels_last
    already: `randn` draws them in their order all the same."""
    lines = [f"manual_seed(randint(2**31, (), generator=manual_seed({config.seed})))",
             "for name, p in model.named_parameters():  # weights N(0, 1 / fan-in), gammas 1, biases and shifts 0",
             '    p.data[:] = randn(p.shape) * p[0].numel() ** -0.5 if p.dim() > 1 else float("weight" in name)']
    if net.frozen:
        names = ", ".join(f'"{name}"' for name in net.frozen)
        lines.append(f"    p.requires_grad_(not name.endswith(({names}{',' * (len(net.frozen) == 1)})))  # these stay")
    return lines + [f'model.to("{config.device}")'] * (config.device != "cpu")


def _optimizer(config: TrainConfig, images: int) -> list[str]:
    steps = images // min(config.batch_size, images)
    schedule = f"OneCycleLR(optimizer, {config.lr!r}, total_steps={config.epochs} * {steps} + 1, cycle_momentum=False)"
    if config.schedule == "steps":
        ends = ", ".join(str(round(config.epochs * steps * part)) for part in (1 / 3, 2 / 3, 8 / 9))
        schedule = f"LambdaLR(optimizer, lambda step: 0.1 ** sum(step >= end for end in ({ends})))"
    parameters, decay = "model.parameters()", ""
    if config.weight_decay and config.decay_norm:
        decay = f", weight_decay={config.weight_decay!r}"
    elif config.weight_decay:  # of weights alone: not of gammas, shifts and biases
        parameters = f'[{{"params": p, "weight_decay": {config.weight_decay!r} * (p.dim() > 1)}} for p in {parameters}]'
    momentum = f", momentum={config.momentum!r}, nesterov=True" if config.momentum else ""
    return [*wrapped(f"optimizer = optim.SGD({parameters}, lr={config.lr!r}{momentum}{decay}, fused=True)"),
            *wrapped(f"schedule = optim.lr_scheduler.{schedule}"),
            *([f'scaler = GradScaler("{_kind(config)}")'] if config.precision == "fp16" else [])]


def _kind(config: TrainConfig) -> str:
    return config.device.split(":")[0]


def _autocast(config: TrainConfig) -> str:
    return f'autocast("{_kind(config)}", {_LOW[config.precision]})' if config.precision in _LOW else ""


def _logits(config: TrainConfig, net: network.Network, images: str, mode: str) -> str:
    if config.data != "digits":
        images = f"addcmul(shift, {images}, scale){_low(config)}"
    call = f"logits(model.{mode}(), {images})" if net.forward else f"model.{mode}()({images})"
    return f"{call}{'.float()' if config.precision in _LOW else ''}"


def _training(config: TrainConfig, images: int, net: network.Network, root) -> list[str]:
    pad = config.crop_padding
    size = min(config.batch_size, images)
    whole = f"[:{images // size}]" if images % size else ""  # a last incomplete batch is left out
    draws, loop, batch, flip = [f"randperm({images}).split({size}){whole}"], ["rows"], "crops[rows, 0, 0]", []
    if pad or config.flip:
        draws.append(f"randint({2 * pad + 1}, (2, {images})).split({size}, dim=1)")
        loop, batch = ["rows", "(y, x)"], "crops[rows, y, x]"
    if config.flip:
        draws.append(f"rand({images}).split({size})")
        loop.append("flip")
        mirrored = f"flip[:, None, None, None]{_on_device(config)} < 0.5"
        flip = wrapped(f"        images = where({mirrored}, {batch}.flip(3), {batch})")
        batch = "images"
    each = draws[0] if len(draws) == 1 else f"zip({', '.join(draws)})"
    kind = ".long()" * (config.data != "digits" and _from_npz(config, root))  # whichever integers are in the file
    loss = f"loss = nn.functional.cross_entropy({_logits(config, net, batch, 'train')}, labels[rows]{kind})"
    low = _autocast(config)
    steps = ["loss.backward()", "optimizer.step()"]
    if config.precision == "fp16":
        steps = ["scaler.scale(loss).backward()", "scaler.step(optimizer)", "scaler.update()"]
    sequence = "SeedSequence" if config.data == "digits" else "np.random.SeedSequence"
    return [f"for epoch in range({config.epochs}):",
            f"    manual_seed({sequence}([{config.seed}, epoch]).generate_state(1)[0])",
            *wrapped(f"    for {', '.join(loop)} in {each}:"), *flip,
            *([f"        with {low}:", f"            {loss}"] if low else [f"        {loss}"]),
            *(f"        {line}" for line in ["optimizer.zero_grad()", *steps, "schedule.step()"])]


def _evaluation(config: TrainConfig, net: network.Network) -> list[str]:
    """Accuracies as in `fit`: after each epoch on the images held out for validation, or else on the test images."""
    available, tests = _SETS[config.data][-2:]
    start = 'print(f"epoch {epoch + 1}: last loss {loss:.6f}, '
    if not config.validation_images:
        return _accuracy(config, net, available, available + tests, "    ", f"{start}test")
    return [*_accuracy(config, net, available - config.validation_images, available, "    ", f"{start}validation"),
            *_accuracy(config, net, available, available + tests, "", 'print(f"test')]


def _accuracy(config: TrainConfig, net: network.Network, first: int, end: int, indent: str, start: str) -> list[str]:
    pad, low = config.crop_padding, _autocast(config)
    if config.data == "digits":
        last = "" if end == sum(_SETS["digits"][-2:]) else end
        logits = _logits(config, net, f"crops[{first}:{last}, {pad}, {pad}]", "eval")
        right, within = [f"right = {logits}.argmax(1) == labels[{first}:{last}]"], low
        mean = "right.double().mean()"
    else:
        logits = _logits(config, net, f"crops[rows, {pad}, {pad}]", "eval")
        right = wrapped(f"{indent}    right = sum(({logits}.argmax(1) == labels[rows]).sum() for rows in "
                        f"arange({first}, {end}).split(1000))")
        right, within = [line.removeprefix(f"{indent}    ") for line in right], f"no_grad(){low and ', '}{low}"
        mean = f"right / {end - first}"
    if within:
        right = [f"with {within}:", *(f"    {line}" for line in right)]
    return [*(indent + line for line in right), f'{indent}{start} accuracy {{{mean}:.4f}}")']
