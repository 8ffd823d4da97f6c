"""The options of `cbn-lab train`: one for each field of TrainConfig, and those of the run."""

import argparse
import ast
from contextlib import suppress
from dataclasses import fields

from cbn_lab._command_line import Parser

# One line of help for each field of TrainConfig; types and defaults come from the class.
HELP = {
    "data": "digits, cifar10, cifar100, imagefolder:PATH or the path of an .npz",
    "model": "a name of cbn_lab.models",
    "activation": "a name of cbn_lab.activations, or one per block with commas",
    "placement": "where the normalization stands (cbn_lab.blocks), or one per block with commas",
    "model_options": "a size of the model, such as widths=32,64, or join=normalized; can be repeated",
    "norm_options": "an option of the normalization, such as shift_lr_multiplier=4; can be repeated",
    "train_images": "use only the first n training images",
    "validation_images": "hold out the last n training images and evaluate on them",
    "epochs": "passes over the training images",
    "batch_size": "images per step",
    "lr": "peak learning rate of the schedule, per step",
    "momentum": "Nesterov momentum of SGD; 0 for plain SGD",
    "weight_decay": "added to the gradient as weight_decay * w",
    "decay_norm": "weight decay on gammas, shifts and biases as well",
    "crop_padding": "pixels of padding before a random crop (default: 4; digits: 1)",
    "flip": "random mirror (default: on; digits: off)",
    "seed": "of the weights, the order of the images, crops and flips",
    "device": "auto, cpu, cuda, cuda:1",
    "precision": "auto, fp32, bf16, fp16",
    "compile": "torch.compile the model (GPU only)",
    "cuda_graphs": "replay forward and backward pass as CUDA graphs (GPU only)",
    "evaluate_every": "evaluate after every n-th epoch; 0: only after the last",
    "log_every": "steps between two entries of the curve (default: 20 entries an epoch)",
    "sync_norm": "on several ranks, normalize by the moments of the joined batch",
    "ranks": "processes that share each batch, as many as torchrun starts; given, it is checked",
    "schedule": "one_cycle, or steps: lr divided by 10 after 1/3, 2/3 and 8/9 of the epochs",
    "image_size": "of an imagefolder: cut photographs of any size to this, decoded while training (resnet50: 224)",
}


def train_parser() -> Parser:
    """One option for each field of TrainConfig, absent from the result where it is not given, and those of the run."""
    from cbn_lab.train import TrainConfig

    parser = Parser(
        prog="cbn-lab train", description="Train one network, show a bar, and end with a line of results and the path "
        "of the record. A finished run of equal settings in the same folder is overwritten (with --resume: kept, and "
        "not trained again).")
    settings = parser.add_argument_group("settings of the run")
    for field in fields(TrainConfig):
        settings.add_argument(f"--{field.name.removesuffix('s') if field.type is dict else field.name}"
                              .replace("_", "-"), dest=field.name, default=argparse.SUPPRESS, **_kind(field))
    parser.add_argument("--out", default="runs", help="folder for records and checkpoints (default: %(default)s)")
    parser.add_argument("--root", help="folder with data sets, looked into first")
    parser.add_argument("--download", action="store_true", help="fetch CIFAR-10 or CIFAR-100 if it is nowhere")
    parser.add_argument("--workers", type=_workers, help="processes that decode photographs, 0 for none of their own "
                        "(default: one for each core); changes no number")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint of equal settings, if any")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object, on the last line")
    return parser


def _workers(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def _kind(field) -> dict:
    """argparse's arguments for a field of TrainConfig, from its type and default."""
    text = HELP[field.name]
    if field.type is dict:
        return {"action": "append", "type": _pair, "metavar": "KEY=VALUE", "help": text}
    default = "" if field.default is None else f" (default: {field.default})"
    if field.type in (bool, bool | None):
        return {"action": argparse.BooleanOptionalAction, "help": text + default}
    kind = {str | tuple: _one_or_more, int | None: int}.get(field.type, field.type)
    return {"type": kind, "metavar": field.name.split("_")[-1].upper(), "help": text + default}


def _one_or_more(text: str) -> str | tuple:
    names = tuple(name.strip() for name in text.split(","))
    return names if len(names) > 1 else names[0]


def _pair(text: str) -> tuple:
    """KEY=VALUE -> (key, value); a value that is no Python literal is a string."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    with suppress(ValueError, SyntaxError):
        value = ast.literal_eval(value)
    return key, value
