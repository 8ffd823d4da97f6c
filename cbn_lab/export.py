"""A run as a stand-alone script of plain PyTorch, without cbn_lab, that reproduces its numbers.

`script(config)` writes what these settings need and nothing else: data, network, drawn weights, SGD, the loss of each
epoch and the accuracy at the end. Where `train.fit` runs fused kernels the script runs the same ones, and what fit
draws at random the script draws in the same order, so that on one machine, with one version of PyTorch, the losses
agree to the last bit. Settings that change no number are left out: `evaluate_every`, `log_every`, `compile`, `sync`.

Our CBN is a reconstruction, and the script says so. In it a CBN layer is a weight layer with a bias (the pre-shift),
the activation, and a batch norm behind it; a shift with the multiplier k is stored as a and used as sqrt(k) a.
"""

import math
import textwrap

import torch

from cbn_lab import _export_network as network
from cbn_lab import data, models, share
from cbn_lab._export_network import wrapped
from cbn_lab.config import TrainConfig

STATE = "CBN Lab state:"  # stands in the first line of a script, before the state
GOES_ON = "\\"  # ends a line of the state that goes on in the next: half a state would be another one
# data set -> (class in torchvision, channels, pixels a side, classes, training images)
_SETS = {"digits": ("", 1, 8, 10, 1415), "cifar10": ("CIFAR10", 3, 32, 10, 50000),
         "cifar100": ("CIFAR100", 3, 32, 100, 50000)}
# Per channel of the whole training split, as `data.load` computes them: exact in float32 after mean / std.
_STATISTICS = {
    "cifar10": ("0.49139967862, 0.48215840839, 0.44653091445", "0.24703223246, 0.24348512800, 0.26158784173"),
    "cifar100": ("0.50707515924, 0.48654886733, 0.44091784336", "0.26733428588, 0.25643846292, 0.27615047132")}


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
        raise ValueError(f"there is a script for the models {' and '.join(network.MODELS)}, not for {config.model!r}; "
                         "choose one of these, or train this one with `cbn-lab train`")
    _, channels, size, classes, available = _SETS[config.data]
    with torch.random.fork_rng(devices=[]):  # refuses what is no network, in its own words
        models.build(config.model, num_classes=classes, in_channels=channels, image_size=size,
                     activation=config.activation, placement=config.placement, norm_options=config.norm_options,
                     **config.model_options)
    net = network.describe(config, channels, size, classes)
    images = config.train_images or available - config.validation_images
    if not 2 <= images <= available - config.validation_images:
        raise ValueError(f"train_images={config.train_images} and validation_images={config.validation_images} do not "
                         f"fit into the {available} training images of {config.data}")
    forward = _forward(config, net)
    call = "forward" if forward else "model"
    parts = [_imports(config, root), _data(config, root), net.classes, [*net.model, *_weights(config, net)], forward,
             _optimizer(config, images), [*_training(config, images, call), *_evaluation(config, call)]]
    return "\n".join(header) + "\n" + "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _header(config: TrainConfig) -> list[str]:
    complete = "complete" in config.placement  # a name, or a list of names
    text = f"{'Our reconstruction of CBN. ' * complete}{STATE} {share.encode(config)}"
    *lines, last = textwrap.wrap(text, 118, initial_indent="# ", subsequent_indent="# ", break_long_words=False,
                                 break_on_hyphens=False)
    return [*(f"{line} {GOES_ON}" for line in lines), last]


def _imports(config: TrainConfig, root) -> list[str]:
    lines = ["import numpy as np", "import torch"]
    if config.data == "digits":
        lines.append("from sklearn.datasets import load_digits")
    lines.append("from torch import nn")
    if config.data != "digits" and not _from_npz(config, root):
        lines.append(f"from torchvision.datasets import {_SETS[config.data][0]}")
    return lines


def _from_npz(config: TrainConfig, root) -> bool:
    return data.available(root)[config.data] == f"{config.data}.npz"


def _data(config: TrainConfig, root) -> list[str]:
    """`labels`, and `crops` [N, C, 2 pad + 1, 2 pad + 1, H, W]: a view of the padded images, every cut of each."""
    pad = config.crop_padding
    cut = f".unfold(2, {{0}}, 1).unfold(3, {{0}}, 1){_on_device(config)}"
    if config.data == "digits":
        return ["pixels, labels = map(torch.tensor, load_digits(return_X_y=True))  # 0 to 16, the first 1,415 are to "
                "train on",
                "std, mean = torch.std_mean(15 * pixels[:1415] / 255, correction=0)",
                "images = " + (f"nn.ZeroPad2d({pad})(pixels.view(-1, 1, 8, 8)).float()" if pad else
                               "pixels.view(-1, 1, 8, 8).float()") + "  # crops[n, :, y, x]: image n, cut at y, x",
                "crops = torch.addcmul((-mean / std).float(), 15 * images, (1 / (255 * std)).float())" + cut.format(8),
                *(["labels = labels" + _on_device(config)] if config.device != "cpu" else [])]
    mean, std = _STATISTICS[config.data]
    if _from_npz(config, root):
        load = [f'arrays = np.load("data/{config.data}.npz")  # not always in the order of torchvision',
                'pixels = torch.from_numpy(np.concatenate([arrays["x_train"], arrays["x_test"]])).permute(0, 3, 1, 2)',
                'labels = torch.from_numpy(np.concatenate([arrays["y_train"], arrays["y_test"]])).long()']
    else:
        load = [f'train, test = ({_SETS[config.data][0]}("data", train=part, download=True) for part in (True, False))',
                "pixels = torch.from_numpy(np.concatenate([train.data, test.data])).permute(0, 3, 1, 2)",
                "labels = torch.tensor(train.targets + test.targets)"]
    load[-1] += _on_device(config)
    return [*load, f"crops = nn.ZeroPad2d({pad})(pixels)" + cut.format(32),
            f"mean = torch.tensor([{mean}], dtype=torch.float64)[:, None, None]",
            f"std = torch.tensor([{std}], dtype=torch.float64)[:, None, None]",
            f"scale, shift = (1 / (255 * std)).float(){_on_device(config)}, (-mean / std).float(){_on_device(config)}"]


def _on_device(config: TrainConfig) -> str:
    return "" if config.device == "cpu" else f'.to("{config.device}")'


def _weights(config: TrainConfig, net: network.Network) -> list[str]:
    """Weights N(0, 1 / fan-in) from the generator of `models.build`, biases 0."""
    seed = f"torch.randint(2**31, (), generator=torch.manual_seed({config.seed}))"
    lines = [f"torch.manual_seed({seed})  # of the weights",
             "for layer in (m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))):",
             "    nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)"]
    if net.all_have_bias:
        lines.append("    nn.init.zeros_(layer.bias)")
    elif net.some_have_bias:
        lines += ["    if layer.bias is not None:", "        nn.init.zeros_(layer.bias)"]
    else:
        lines.append("nn.init.zeros_(model[-1].bias)")
    if net.frozen:
        names = ", ".join(f'"{name}"' for name in net.frozen)
        lines += ["for name, parameter in model.named_parameters():  # these keep the 1 or 0 that they begin with",
                  f"    parameter.requires_grad_(not name.endswith(({names}{',' * (len(net.frozen) == 1)})))"]
    move = [f'"{config.device}"'] * (config.device != "cpu") + ["memory_format=torch.channels_last"] * net.convolutional
    return lines + [f"model.to({', '.join(move)})"] * bool(move)


def _forward(config: TrainConfig, net: network.Network) -> list[str]:
    """A function around the model where its input, its shifts or its precision need one."""
    call, argument, before = "model(images)", "images", []
    if config.data != "digits":
        argument = "pixels"
        before.append("images = torch.addcmul(shift, pixels.float(), scale)"
                      f"{'.contiguous(memory_format=torch.channels_last)' if net.convolutional else ''}")
    elif net.convolutional and net.norm_first:  # one channel: layouts differ in strides alone, yet in kernels
        before.append("images = images.reshape(-1, 8, 8, 1).permute(0, 3, 1, 2)  # the strides of channels_last")
    comment = ""
    if net.shifted:
        root = math.sqrt(net.multiplier)
        comment = f"  # a shift is stored as a and used as {root:.4g} a: it learns {net.multiplier:g} times as fast"
        before += wrapped(f'shifts = {{f"{{i}}.{{name}}": {root!r} * a for i in {net.shifted} '
                          'for name, a in model[i].named_parameters() if "bias" in name}', 116)
        call = "torch.func.functional_call(model, shifts, images)"
    last = [f"return {call}"]
    if config.precision == "bf16":
        last = [f'with torch.autocast("{config.device.split(":")[0]}", torch.bfloat16):',
                f"    return {call.replace('images)', 'images.bfloat16())')}.float()"]
    if last == ["return model(images)"] and not before:
        return []
    return [f"def forward({argument}):{comment}", *(f"    {line}" for line in [*before, *last])]


def _optimizer(config: TrainConfig, images: int) -> list[str]:
    steps = images // min(config.batch_size, images)
    parameters, decay, groups = "model.parameters()", "", []
    if config.weight_decay and config.decay_norm:
        decay = f", weight_decay={config.weight_decay!r}"
    elif config.weight_decay:
        groups = ["matrices = [p for p in model.parameters() if p.dim() > 1]",
                  "vectors = [p for p in model.parameters() if p.dim() == 1]  # gammas, shifts and biases do not decay"]
        parameters = f'[{{"params": matrices, "weight_decay": {config.weight_decay!r}}}, {{"params": vectors}}]'
    momentum = f", momentum={config.momentum!r}, nesterov=True" if config.momentum else ""
    return [*groups,
            *wrapped(f"optimizer = torch.optim.SGD({parameters}, lr={config.lr!r}{momentum}{decay}, fused=True)"),
            f"schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, {config.lr!r}, "
            f"total_steps={config.epochs} * {steps} + 1, cycle_momentum=False)"]


def _training(config: TrainConfig, images: int, call: str) -> list[str]:
    pad = config.crop_padding
    size = min(config.batch_size, images)
    whole = f"[:{images // size}]" if images % size else ""  # a last incomplete batch is left out
    names, draws, splits = ["order"], [f"torch.randperm({images})"], [f"order.split({size}){whole}"]
    loop, cut = ["rows"], "0, 0"
    if pad or config.flip:
        names.append("(down, right)")
        draws.append(f"torch.randint({2 * pad + 1}, (2, {images}))")
    if pad:
        splits += [f"down.split({size})", f"right.split({size})"]
        loop, cut = ["rows", "y", "x"], "y, x"
    flip, batch = [], f"crops[rows, :, {cut}]"
    if config.flip:
        splits.append(f"mirrored.split({size})")
        loop.append("flip")
        flip = [f"        batch = {batch}",
                f"        batch = torch.where(flip[:, None, None, None]{_on_device(config)}, batch.flip(-1), batch)"]
        batch = "batch"
    each = splits[0] if len(splits) == 1 else f"zip({', '.join(splits)})"
    seed = f"int(np.random.SeedSequence([{config.seed}, epoch]).generate_state(1)[0])"
    return [f"for epoch in range({config.epochs}):",
            f"    torch.manual_seed({seed})  # of order and cuts",
            f"    {', '.join([*names, 'losses'])} = {', '.join([*draws, '[]'])}",
            *([f"    mirrored = torch.rand({images}) < 0.5"] if config.flip else []),
            *wrapped(f"    for {', '.join(loop)} in {each}:"),
            *flip, f"        loss = nn.functional.cross_entropy({call}({batch}), labels[rows])",
            "        optimizer.zero_grad()", "        loss.backward()", "        optimizer.step()",
            "        schedule.step()", "        losses.append(loss.item())",
            '    print(f"epoch {epoch + 1}: loss {np.mean(losses):.6f}")']


def _evaluation(config: TrainConfig, call: str) -> list[str]:
    """The accuracies that `fit` ends with: on the images held out for validation, if any, and on the test images."""
    pad, available = config.crop_padding, _SETS[config.data][-1]
    rows = {"test": f"{available}:"}
    if config.validation_images:
        rows = {"validation": f"{available - config.validation_images}:{available}"} | rows
    lines = ["model.eval()"]
    for split, part in rows.items():
        if config.data == "digits":
            correct = f"({call}(crops[{part}, :, {pad}, {pad}]).argmax(1) == labels[{part}])"
        else:
            first, _, last = part.partition(":")
            lines += ["with torch.no_grad():", *wrapped(
                f"    correct = torch.cat([{call}(crops[rows, :, {pad}, {pad}]).argmax(1) == labels[rows] for rows in "
                f"torch.arange({first}, {last or 'len(labels)'}).split(1000)])")]
            correct = "correct"
        lines.append(f'print(f"{split} accuracy {{{correct}.double().mean():.4f}}")')
    return lines
