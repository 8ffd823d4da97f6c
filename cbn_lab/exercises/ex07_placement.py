"""Exercise 7.4: a placement of one's own, which every model, probe and widget can then use."""

import copy

import torch
from torch import nn

from cbn_lab import activations, blocks, norms
from cbn_lab.exercises.core import Mutant, Spec, Wrong, require
from cbn_lab.exercises.tools import close


def around_weight(weight, activation, options):
    """The parts of a block BN -> weight layer -> BN -> activation, as `cbn_lab.blocks.Parts`.

    weight: nn.Linear or nn.Conv2d, used as it is; activation: a registered name; options: for both norms.
    """
    raise NotImplementedError


def _sizes(weight):
    """(features in, features out, number of image axes) of the weight layer."""
    if isinstance(weight, nn.Conv2d):
        return weight.in_channels, weight.out_channels, 2
    return weight.in_features, weight.out_features, 1


def _around_weight(weight, activation, options):
    if isinstance(weight, nn.Conv2d):
        features_in, features_out, axes = weight.in_channels, weight.out_channels, 2
    else:
        features_in, features_out, axes = weight.in_features, weight.out_features, 1
    entrance = norms.get("batch_norm", features_in, axes, **options)
    behind = norms.get("batch_norm", features_out, axes, **options)
    return blocks.Parts(weight, activations.module(activation), norm_in=entrance, norm=behind)


def _norms(weight, options):
    features_in, features_out, axes = _sizes(weight)
    return tuple(norms.get("batch_norm", size, axes, **options) for size in (features_in, features_out))


def _slots(**of):
    """A mistake that fills slots: names of `Parts` -> "in", "out" or "shared"."""
    def wrong(weight, activation, options):
        entrance, behind = _norms(weight, options)
        layers = {"in": entrance, "out": behind, "shared": behind}
        return blocks.Parts(weight, activations.module(activation), **{slot: layers[one] for slot, one in of.items()})

    return wrong


def _exchanged(weight, activation, options):
    entrance, behind = _norms(weight, options)
    return blocks.Parts(weight, activations.module(activation), norm_in=behind, norm=entrance)


def _copied(weight, activation, options):
    parts = _around_weight(weight, activation, options)
    parts.weight = copy.deepcopy(weight)
    return parts


def _reset(weight, activation, options):
    weight.reset_parameters()
    return _around_weight(weight, activation, options)


def _sequence(weight, activation, options):
    parts = _around_weight(weight, activation, options)
    return nn.Sequential(parts.norm_in, parts.weight, parts.norm, parts.activation)


def _one_axis(weight, activation, options):
    features_in, features_out, _ = _sizes(weight)
    entrance, behind = (norms.get("batch_norm", n, 1, **options) for n in (features_in, features_out))
    return blocks.Parts(weight, activations.module(activation), norm_in=entrance, norm=behind)


def _plain(weight, activation, options):
    return _around_weight(weight, activation, {**options, "affine": False})


def _in_eval(weight, activation, options):
    parts = _around_weight(weight, activation, options)
    parts.norm_in.eval(), parts.norm.eval()
    return parts


_MISTAKES = {
    "behind the activation": ("the second norm stands behind the activation, in `norm_out`; between weight layer and "
                              "activation is `norm`", _slots(norm_in="in", norm_out="out")),
    "no entrance": ("no norm stands before the weight layer: `norm_in` is empty", _slots(norm="out")),
    "no norm behind": ("nothing normalizes between weight layer and activation: `norm` is empty",
                       _slots(norm_in="in")),
    "three norms": ("there is a third norm, in `norm_out`; leave that slot empty",
                    lambda w, a, o: _with(_around_weight(w, a, o), norm_out=_norms(w, o)[1])),
    "one layer twice": ("both slots hold the *same* norm object, which then shares its statistics and parameters; make "
                        "two", _slots(norm_in="shared", norm="shared")),
    "sizes exchanged": ("the norms have each other's number of channels: `norm_in` sees what enters the weight layer, "
                        "`norm` what leaves it", _exchanged),
    "one axis": ("a convolution needs norms for maps [N, C, H, W]: `norms.get(..., dims=2)`", _one_axis),
    "options ignored": ("the options do not reach both norms: pass `**options` on",
                        lambda w, a, o: _around_weight(w, a, {})),
    "activation lost": ("the activation is missing", lambda w, a, o: _with(_around_weight(w, a, o),
                                                                           activation=nn.Identity())),
    "fixed activation": ("another activation than the one asked for", lambda w, a, o: _around_weight(w, "relu", o)),
    "weight copied": ("the weight layer is a copy; use the one that was given, others hold on to it", _copied),
    "sequence": ("the result is a Sequential; return `blocks.Parts`, from which blocks and residual branches are "
                 "made", _sequence),
}
_FURTHER = {
    "weight drawn anew": ("the weights were changed; the layer is to be used as it is", _reset),
    "no gamma": ("the norms have no gamma and beta, or too many; leave that to the options", _plain),
    "in eval mode": ("a norm is in eval mode; leave the mode to whoever trains the net", _in_eval),
}


def _with(parts, **slots):
    for slot, layer in slots.items():
        setattr(parts, slot, layer)
    return parts


def _say(name: str) -> str:
    return (_MISTAKES | _FURTHER)[name][0]


def _check(student):
    torch.manual_seed(0)
    for weight, shape, options in ((nn.Linear(5, 5), (7, 5), {}), (nn.Conv2d(3, 4, 3, padding=1), (4, 3, 6, 5), {}),
                                   (nn.Linear(4, 6), (9, 4), {"eps": 0.5, "momentum": 0.3, "affine": False})):
        for activation in ("tanh", "relu", "sigmoid"):
            _check_one(student, weight.double(), torch.randn(*shape, dtype=torch.float64), activation, options)


def _check_one(student, weight, x, activation, options):
    before = copy.deepcopy(weight.state_dict())
    parts = student(weight, activation, dict(options))
    require(not isinstance(parts, nn.Module), _say("sequence"))
    require(isinstance(parts, blocks.Parts), f"expected `blocks.Parts`, got {type(parts).__name__}")
    require(parts.weight is weight, _say("weight copied"))
    require(all(torch.equal(value, before[name]) for name, value in weight.state_dict().items()),
            _say("weight drawn anew"))
    _check_slots(parts, weight, options)
    _check_activation(parts.activation, activation)
    expected = _around_weight(weight, activation, options)
    for slot in ("norm_in", "norm"):
        shapes = [sorted(p.shape for p in getattr(one, slot).parameters()) for one in (parts, expected)]
        require(shapes[0] == shapes[1], _say("no gamma"))
    layers = nn.Sequential(*parts.linear().values(), *parts.nonlinear().values())
    require(all(layer.training for layer in (parts.norm_in, parts.norm)), _say("in eval mode"))
    twin = nn.Sequential(*expected.linear().values(), *expected.nonlinear().values())
    where = f"{weight}, activation {activation}, options {options}"
    for mode in (True, False):
        with torch.no_grad():
            close(layers.double().train(mode)(x), twin.double().train(mode)(x), where,
                  what=f"the output in {'train' if mode else 'eval'} mode")


def _check_slots(parts, weight, options):
    require(parts.norm_out is None or parts.norm is not None, _say("behind the activation"))
    require(parts.norm_in is not None, _say("no entrance"))
    require(parts.norm is not None, _say("no norm behind"))
    require(parts.norm_out is None, _say("three norms"))
    features_in, features_out, axes = _sizes(weight)
    if features_in == features_out:
        require(parts.norm_in is not parts.norm, _say("one layer twice"))
    sizes = tuple(getattr(layer, "num_features", None) for layer in (parts.norm_in, parts.norm))
    require(sizes != (features_out, features_in) or features_in == features_out, _say("sizes exchanged"))
    shape = (2, 1, 3, 3) if axes == 2 else (2, 1)
    for slot, size in (("norm_in", features_in), ("norm", features_out)):
        layer = getattr(parts, slot)
        require(isinstance(layer, nn.Module), f"`{slot}` is not a layer but {type(layer).__name__}")
        found = getattr(layer, "num_features", size)
        require(found == size, f"`{slot}` normalizes {found} channels, but {size} arrive there for {weight}")
        try:
            copy.deepcopy(layer).float()(torch.randn(shape).expand(-1, size, *shape[2:]))
        except (ValueError, RuntimeError) as error:
            said = _say("one axis") if axes == 2 else f"`{slot}` fails on a batch [N, C]"
            raise Wrong(f"{said} ({error})") from None
        require(all(getattr(layer, name, value) == value for name, value in options.items()), _say("options ignored"))


def _check_activation(layer, activation):
    z = torch.linspace(-3, 3, 13, dtype=torch.float64)
    require(isinstance(layer, nn.Module), f"the activation is {type(layer).__name__}; `activations.module(name)` makes "
            "the layer")
    found, wanted = layer(z), activations.get(activation)(z)
    if not torch.allclose(found, wanted):
        raise Wrong(_say("activation lost") if torch.equal(found, z) else _say("fixed activation"))


PLACEMENT = Spec(
    id="7.4", title="a placement of your own",
    task="Write a placement that the library does not have: a BN on either side of the weight layer, BN → weight → "
         "BN → activation. Once it is registered, every net, probe and widget of this course can use it.",
    stub=around_weight, reference=_around_weight, check=_check,
    hints=("`blocks.Parts` has a slot for each place: `norm_in`, `weight`, `norm`, `activation`, `norm_out`.",
           "`norms.get(\"batch_norm\", features, dims, **options)` makes a norm; dims is 1 behind a linear layer, 2 "
           "behind a convolution. `activations.module(name)` makes the activation.",
           "The first norm sees `in_channels` (or `in_features`), the second `out_channels` (or `out_features`)."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _MISTAKES.items()},
    why="A placement is a function that fills slots. `blocks.register(name, build, bias=...)` adds it to the registry, "
        "and nothing else in the library has to know. The weight layer needs no bias here: the BN behind it removes "
        "it. In a chain of layers this placement differs from `both` at the two ends alone.")
