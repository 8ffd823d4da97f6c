"""Notebook 00: an activation of the reader's own, and which label a sentence deserves."""

import inspect

import torch
from torch import nn

from cbn_lab.exercises.core import Mutant, Spec, Wrong, require
from cbn_lab.exercises.tools import array, call, close, same


class MyActivation(nn.Module):
    """f(z), for each number alone; z may have any shape."""

    def forward(self, z):
        raise NotImplementedError


class _Softsign(MyActivation):
    def forward(self, z):
        return z / (1 + z.abs())


def _check_activation(student):
    torch.manual_seed(0)
    try:
        inspect.signature(student).bind()
    except TypeError as error:
        raise Wrong(f"the class must be made without arguments, `MyActivation()`: {error}") from None
    single = student()
    require(isinstance(single, nn.Module), "the class is not an nn.Module: `class MyActivation(nn.Module)`")
    f = student().double()
    z = 2 * torch.randn(40, 3, 5, dtype=torch.float64)
    value = call(f, z)
    require(isinstance(value, torch.Tensor), f"forward returns an object of type {type(value).__name__}; expected a "
                                             "tensor")
    require(value.shape == z.shape, f"an input of shape {list(z.shape)} gives the shape {list(value.shape)}; an "
                                    "activation keeps it")
    _require_elementwise(f, z, value)
    wide = torch.cat([torch.linspace(-100, 100, 401), torch.zeros(1)])
    outputs, slopes = _with_slopes(single, wide)
    require(outputs.dtype == wide.dtype and value.dtype == z.dtype,
            f"the dtype changes: {z.dtype} becomes {value.dtype}, {wide.dtype} becomes {outputs.dtype}; keep that of z")
    _require_finite("f(z)", wide, outputs)
    _require_finite("the slope of f", wide, slopes)
    _require_useful(f, z, value)


def _require_elementwise(f, z, value) -> None:
    require(same(f(z), value), "two calls with the same z give different results; a network with this activation would "
                               "not repeat itself")
    for part, whole in ((f(z[:7]), value[:7]), (f(z[:, :1]), value[:, :1]), (f(z[..., 2:]), value[..., 2:])):
        require(same(part, whole), "the value for one number depends on the other numbers in the tensor; f acts on "
                                   "each of them alone")
    require(same(f(z.reshape(-1)), value.reshape(-1)), "f depends on where a number stands in the tensor, or on the "
                                                       "tensor's shape; it acts on each number alone")


def _with_slopes(f, z):
    z = z.clone().requires_grad_()
    outputs = f(z)
    require(outputs.requires_grad, "no gradient goes through f: stay with torch's functions, without `detach`, `.data` "
                                   "or numpy")
    return outputs.detach(), torch.autograd.grad(outputs.sum(), z)[0]


def _require_useful(f, z, value) -> None:
    _, slopes = _with_slopes(f, z)
    require(float(value.detach().std()) > 1e-6, "f is constant: nothing of z is left behind it")
    require((slopes != 0).any(), "the slope of f is 0 everywhere: no weight in front of it would ever move")
    require(float(slopes.std()) > 1e-6, "the slope of f is the same everywhere, as of a straight line: a pile of "
                                        "such blocks is one linear map, whatever its depth")
    step = 1e-6
    numeric = (f(z + step) - f(z - step)).detach() / (2 * step)
    smooth = (f(z + step) - 2 * value + f(z - step)).detach().abs() < 1e-9  # not across a kink or a jump
    close(slopes[smooth], numeric[smooth], "numbers between -8 and 8", what="the slope that autograd sees", rtol=1e-3,
          atol=1e-5)


def _require_finite(what: str, z, found) -> None:
    odd = ~found.isfinite()
    if odd.any():
        raise Wrong(f"{what} is not finite for z = {float(z[odd][0]):g}, but {float(found[odd][0])}: look for exp, "
                    "log, roots or divisions")


def _activation(function, base=nn.Module):
    class Mine(base):
        def forward(self, z):
            return function(z)

    return Mine


class _WithArgument(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, z):
        return torch.where(z > 0, z, self.slope * z)


ACTIVATION = Spec(
    id="0.3", title="an activation of your own",
    task="Write an activation: a module that applies one function to every number. Any will do that is not a straight "
         "line and can be trained through.",
    stub=MyActivation, reference=_Softsign, check=_check_activation,
    hints=("`forward` gets a tensor and returns one of the same shape. torch's functions act on each number: "
           "`torch.exp(-z**2)` is one line.",
           "What happens for very large and very small z, for z = 0, and to the gradient? `torch.where` lets you glue "
           "two pieces together."),
    mutants={
        "softmax": Mutant(_activation(lambda z: z.softmax(-1)), "depends on the other numbers"),
        "flattens": Mutant(_activation(lambda z: torch.tanh(z).flatten()), "an activation keeps it"),
        "dropout": Mutant(_activation(lambda z: torch.relu(z) * (torch.rand_like(z) > 0.5)),
                          "two calls with the same z"),
        "in place": Mutant(_activation(lambda z: z.clamp_(min=0)), "changes its argument"),
        "numpy": Mutant(_activation(lambda z: torch.from_numpy(array(z)).tanh().to(z.dtype)),
                        "no gradient goes through"),
        "exp": Mutant(_activation(torch.exp), "f(z) is not finite"),
        "root": Mutant(_activation(lambda z: z.abs().sqrt()), "slope of f is not finite"),
        "straight": Mutant(_activation(lambda z: 2 * z + 1), "straight line"),
        "step": Mutant(_activation(torch.sign), "slope of f is 0 everywhere"),
        "single precision": Mutant(_activation(lambda z: torch.tanh(z.float())), "the dtype changes"),
        "with an argument": Mutant(_WithArgument, "must be made without arguments"),
        "no module": Mutant(_activation(torch.tanh, base=object), "the class is not an nn.Module"),
    },
    why="Softsign is bounded like Tanh, but approaches its limits slowly, so its slope dies out more slowly too. Any "
        "other choice is as right; what it does under each placement is the question of this course.")

LABELS = ("proved", "measured", "reported", "folklore", "none")
_RIGHT = ["folklore", "reported", "proved", "none"]
_WHY = (
    {"proved": "sentence 1: nobody has proved it; ask what \"works because\" would even mean as a theorem",
     "measured": "sentence 1: what was measured speaks against it (Santurkar et al. 2018 added a changing noise "
                 "behind BN, and the networks trained as well)",
     "reported": "sentence 1: it names no source, and what its inventors gave as a reason has been contradicted "
                 "since",
     "none": "sentence 1: one of the four labels was made for what many say without a good source"},
    {"proved": "sentence 2: an accuracy on test images is counted, never proved",
     "measured": "sentence 2: not here; we have neither their layer nor their networks",
     "folklore": "sentence 2: there is a source, the abstract of section 2",
     "none": "sentence 2: section 2 says who claims it"},
    {"measured": "sentence 3: no run is needed; use Sigmoid(z) + Sigmoid(-z) = 1",
     "reported": "sentence 3: you need not believe a source; use Sigmoid(z) + Sigmoid(-z) = 1",
     "folklore": "sentence 3: it can be derived in one line, from Sigmoid(z) + Sigmoid(-z) = 1",
     "none": "sentence 3: it says for which z, and it can be derived in one line"},
    {"proved": "sentence 4: a proof needs a statement; better by what measure, for which networks?",
     "measured": "sentence 4: a measurement names seeds, device and settings, and what was counted",
     "reported": "sentence 4: the abstract reports accuracies and training losses, not this; and which layer is meant, "
                 "theirs or ours?",
     "folklore": "sentence 4: hardly anybody says it; it is not even clear what it says"},
)


def _check_labels(student):
    require(isinstance(student, list | tuple) and len(student) == len(_RIGHT),
            f"expected a list of {len(_RIGHT)} labels, one for each sentence, such as [\"measured\", ...]")
    for number, (label, right, why) in enumerate(zip(student, _RIGHT, _WHY, strict=True), 1):
        word = label.strip().lower() if isinstance(label, str) else label
        require(word in LABELS, f"sentence {number}: {label!r} is not a label; the labels are {', '.join(LABELS)}")
        require(word == right, why.get(word, ""))


def _labelled(number: int, label: str) -> Mutant:
    labels = list(_RIGHT)
    labels[number - 1] = label
    return Mutant(labels, _WHY[number - 1][label])


SENTENCES = Spec(
    id="0.4", title="which label",
    task="Give each of the four sentences its label: a list of four texts, each \"proved\", \"measured\", "
         "\"reported\", \"folklore\", or \"none\" where it deserves none.",
    stub=None, reference=_RIGHT, check=_check_labels,
    hints=("Ask of each: who says it, for which settings, and what would show that it is wrong?",
           "One of the four can be derived in a line. One has a source. One had a source, but measurements speak "
           "against it. And one does not say enough to be wrong."),
    mutants={f"{number} {label}": _labelled(number, label) for number, label in (
        (1, "proved"), (1, "measured"), (1, "reported"), (2, "measured"), (2, "folklore"), (3, "measured"),
        (3, "reported"), (4, "proved"), (4, "measured"), (4, "reported"), (4, "folklore"))},
    why="1. Once the reason given by the inventors of BN, now mostly folklore: Santurkar et al. (2018) added a "
        "changing noise after BN, and the networks trained as well.\n"
        "2. Reported, in the abstract of Peng, Yu and Yu, for their layer and their networks. Not measured here.\n"
        "3. Proved: Sigmoid$(z)$ + Sigmoid$(-z)$ = 1, and $z$ and $-z$ have the same distribution.\n"
        "4. None: no settings, no measure, no comparison. And which layer, theirs or ours?")

EXERCISES = (ACTIVATION, SENTENCES)
