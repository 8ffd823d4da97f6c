"""Exercise 1.6: the whole layer, judged by what it computes and then by rows of the conformance table."""

import inspect

import torch
from torch import nn

from cbn_lab.exercises._ex01_forward import case
from cbn_lab.exercises._ex01_layer_mistakes import ALSO, MISTAKES, AcceptsOneValue
from cbn_lab.exercises.core import Mutant, Spec, Wrong, require
from cbn_lab.exercises.tools import close
from cbn_lab.norms import conformance


class MyBatchNorm(nn.Module):
    """num_features channels; dims = 1 for [N, C] and [N, C, L], dims = 2 for [N, C, H, W]."""

    def __init__(self, num_features, dims, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x):
        raise NotImplementedError


class MyBatchNormSolution(nn.Module):
    """num_features channels; dims = 1 for [N, C] and [N, C, L], dims = 2 for [N, C, H, W]."""

    def __init__(self, num_features, dims, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x):
        axes, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        mean, var = self.running_mean, self.running_var
        if self.training:
            n = x.numel() // x.shape[1]
            if n == 1:
                raise ValueError("one value per channel has no variance; use a larger batch, or eval mode")
            mean = x.mean(axes)
            var = (x - mean.view(shape)).square().mean(axes)
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(var.detach() * (n / (n - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        xhat = (x - mean.view(shape)) / torch.sqrt(var + self.eps).view(shape)
        return self.weight.view(shape) * xhat + self.bias.view(shape)


ROWS = ("defaults", "axes", "biased_variance_normalizes", "unbiased_variance_is_stored", "eps_inside_the_root",
         "momentum_weighs_the_update", "eval_uses_running_statistics", "train_and_eval_alternate",
         "grad_mode_is_not_train_mode", "gradients", "double_backward", "one_value_is_refused", "batch_of_one_image",
         "mean_offset", "constant_channel", "input_is_left_alone", "buffers_in_place", "state_dict")
_SHAPES = {(4, 3, 3, 2): 2, (2, 3): 1, (4, 3, 5): 1}


def _layer(make, dims, **options):
    """The layer in float64, with weights and statistics that are not at their defaults."""
    layer = make(3, dims, **options).double()
    kept = dict(layer.named_parameters()) | dict(layer.named_buffers())
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        require(name in kept, f"your layer has no parameter or buffer `{name}`: keep the names of torch's layer, as in "
                              "the given constructor")
    for name, start in (("weight", 0.5), ("bias", -1.0), ("running_mean", 0.2), ("running_var", 0.8)):
        getattr(layer, name).data.copy_(torch.linspace(start, start + 1.5, 3))
    return layer


def _train_output(make, shape, dims):
    return _layer(make, dims, eps=0.3)(case(shape)[0])


def _statistics(make, shape, dims):
    layer = _layer(make, dims, momentum=0.3)
    for seed in (1, 2):
        layer(case(shape, seed=seed)[0])
    return torch.cat([layer.running_mean, layer.running_var])


def _eval_output(make, shape, dims):
    with torch.no_grad():
        return _layer(make, dims, eps=0.3).eval()(case(shape)[0])


def _eval_output_with_gradients(make, shape, dims):
    return _layer(make, dims).eval()(case(shape)[0].requires_grad_())


def _output_under_no_grad(make, shape, dims):
    with torch.no_grad():
        return _layer(make, dims)(case(shape)[0])


def _statistics_after_eval(make, shape, dims):
    layer = _layer(make, dims).eval()
    with torch.no_grad():
        layer(case(shape)[0])
    return torch.cat([layer.running_mean, layer.running_var])


def _input_gradient(make, shape, dims):
    x = case(shape)[0].requires_grad_()
    y = _layer(make, dims)(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).cos().view(y.shape)).sum().backward()
    return x.grad


_SCENES = {"the output in train mode": _train_output, "running_mean and running_var after two batches": _statistics,
           "the output in eval mode": _eval_output,
           "the eval-mode output with gradients on": _eval_output_with_gradients,
           "the train-mode output under no_grad": _output_under_no_grad,
           "running_mean and running_var after an eval pass": _statistics_after_eval,
           "the gradient of x": _input_gradient}


def check_layer(student) -> None:
    for name, value in (("eps", 1e-5), ("momentum", 0.1)):
        default = getattr(inspect.signature(student).parameters.get(name), "default", value)
        require(default in (value, inspect.Parameter.empty), f"the default of {name} is {value}, not {default}")
    for what, scene in _SCENES.items():
        for shape, dims in _SHAPES.items():
            mistakes = {message: scene(layer, shape, dims) for layer, message in MISTAKES.values()}
            mistakes |= {message: scene(layer, shape, dims) for message, layer in ALSO.items()}
            close(scene(student, shape, dims), scene(MyBatchNormSolution, shape, dims), f"an input of {list(shape)}",
                  what=what, mistakes=mistakes)
    _check_counts(student)
    _check_float32(student)
    _check_buffers(student)
    for row in conformance.check(student, ROWS):
        require(row.passed, f"it fails the row `{row.name}` of the conformance table. {row.detail}")


def _check_counts(student) -> None:
    layer = _layer(student, 2)
    try:
        layer(case((1, 3, 2, 2))[0])
    except ValueError as error:
        raise Wrong("a single image is refused in train mode; it has H W values per channel, so it is enough. Refuse "
                    f"where `x.numel() // x.shape[1]` is 1 (your message: {error})") from None
    require(layer.num_batches_tracked == 1,
            f"num_batches_tracked is {layer.num_batches_tracked} after one batch of one image; add 1 for each batch")
    layer(case((2, 3, 2, 2))[0])
    require(layer.num_batches_tracked == 2, f"num_batches_tracked is {layer.num_batches_tracked} after two batches; "
                                            "add 1 for each batch, not for each image")


def _check_float32(student) -> None:
    x = case((32, 3, 4, 4), offset=1e4)[0].float()
    wanted = MyBatchNormSolution(3, 2).double()(x.double())
    if not torch.allclose(student(3, 2)(x).double(), wanted, rtol=0, atol=5e-3):
        raise Wrong(MISTAKES["one pass"][1])


def _check_buffers(student) -> None:
    layer = _layer(student, 1)
    held = layer.running_mean
    layer(case((8, 3))[0].requires_grad_())
    require(layer.running_mean.data_ptr() == held.data_ptr(), MISTAKES["buffers rebound"][1])
    require(not layer.running_mean.requires_grad, MISTAKES["graph kept"][1])


LAYER = Spec(
    id="1.6", title="the whole layer",
    task="Write `forward`. In train mode it normalizes with the batch, updates the running statistics, counts the "
         "batch in `num_batches_tracked`, and refuses one value per channel with a ValueError that says what to do. In "
         "eval mode it uses the running statistics. The checker compares it with torch's layer; the rest of this "
         "notebook then trains with it.",
    stub=MyBatchNorm, reference=MyBatchNormSolution, check=check_layer,
    hints=("You have the parts: exercise 1.1 is the train-mode output, exercise 1.3 the update. `self.training` says "
           "which mode it is.",
           "Eval mode is the same formula with `self.running_mean` and `self.running_var` in place of the batch's.",
           "Two variances: the biased one in the output, `var.detach() * (n / (n - 1))` in the buffer, with n the "
           "number of values per channel."),
    mutants={name: Mutant(layer, message) for name, (layer, message) in MISTAKES.items() if name != "axes"}
            | {"one value accepted": Mutant(AcceptsOneValue, "`one_value_is_refused`")},
    why="Twenty lines, and each of them is a row of the conformance table. Rows that the exercise does not ask for, "
        "such as bfloat16 or channels_last, are what separates it from the library's layer.")
