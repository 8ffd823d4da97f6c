"""Exercise 6.4: fold an affine map into the convolution that follows, with the border of a zero-padded one."""

import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab.exercises.core import Mutant, Spec, Wrong, require
from cbn_lab.exercises.tools import array, close, same


def fold_into_conv(conv, scale, offset, height, width):
    """(weight, term) with conv(scale * h + offset) = conv2d(h, weight, None, conv.stride, conv.padding) + term.

    conv: nn.Conv2d, padded with zeros; scale, offset: [C]; h: [N, C, height, width]; term does not depend on h.
    """
    raise NotImplementedError


def _fold_into_conv(conv, scale, offset, height, width):
    weight = conv.weight * scale.view(1, -1, 1, 1)
    constant = offset.view(1, -1, 1, 1).expand(1, -1, height, width)
    return weight, conv(constant)


def _map(conv, offset, height, width, bias=True, **options):
    plane = offset.view(1, -1, 1, 1).expand(1, -1, height, width)
    options = {"stride": conv.stride, "padding": conv.padding} | options
    return F.conv2d(plane, conv.weight, conv.bias if bias else None, **options)


def _inside(conv, offset):
    """The value away from the border, as a bias."""
    added = torch.einsum("ocuv,c->o", conv.weight, offset)
    return (added if conv.bias is None else added + conv.bias).view(1, -1, 1, 1)


def _scaled(conv, scale):
    return conv.weight * scale.view(1, -1, 1, 1)


def _on_outputs(conv, scale):
    """One factor per output channel, where there are as many of them as of input channels."""
    return conv.weight * scale.view(-1, 1, 1, 1) if len(scale) == conv.out_channels else _scaled(conv, scale)


def _wrapped(conv, offset, height, width):
    """As if the offset went on beyond the border, which gives the inner value everywhere, but as a map."""
    return _inside(conv, offset) + 0 * _map(conv, offset, height, width)


_VARIANTS = {
    "constant bias": ("right inside and wrong along the border: there, part of the kernel reads the padding, which "
                      "is 0 and has no offset",
                      lambda conv, scale, offset, h, w: (_scaled(conv, scale), _inside(conv, offset))),
    "no term": ("the offset is lost: what does the convolution make of a map that is `offset` everywhere?",
                lambda conv, scale, offset, h, w: (_scaled(conv, scale), 0 * _map(conv, offset, h, w))),
    "bias only": ("the term is the convolution's bias alone; the offset is lost",
                  lambda conv, scale, offset, h, w: (
                      _scaled(conv, scale), _map(conv, 0 * offset, h, w))),
    "bias lost": ("the convolution's own bias is lost",
                  lambda conv, scale, offset, h, w: (_scaled(conv, scale), _map(conv, offset, h, w, bias=False))),
    "weight not scaled": ("the weight is not scaled",
                          lambda conv, scale, offset, h, w: (conv.weight + 0, _map(conv, offset, h, w))),
    "scale on the outputs": ("the scale multiplies the output channels of the weight; h meets its input channels, "
                             "axis 1",
                             lambda conv, scale, offset, h, w: (_on_outputs(conv, scale), _map(conv, offset, h, w))),
    "divided by the scale": ("the weight is divided by the scale; multiply it",
                             lambda conv, scale, offset, h, w: (
                                 _scaled(conv, 1 / scale), _map(conv, offset, h, w))),
    "offset scaled": ("the offset is multiplied by the scale; in `scale * h + offset` it is not",
                      lambda conv, scale, offset, h, w: (_scaled(conv, scale), _map(conv, scale * offset, h, w))),
    "wrong sign": ("the offset has the wrong sign",
                   lambda conv, scale, offset, h, w: (_scaled(conv, scale), _map(conv, -offset, h, w))),
    "stride forgotten": ("the term ignores the stride: it has a value for each pixel of h, not for each of the output",
                         lambda conv, scale, offset, h, w: (_scaled(conv, scale), _map(conv, offset, h, w, stride=1))),
    "padding forgotten": ("the term ignores the padding, so that it is smaller than the output",
                          lambda conv, scale, offset, h, w: (_scaled(conv, scale),
                                                             _map(conv, offset, h, w, padding=0))),
    "height for width": ("height and width are exchanged",
                         lambda conv, scale, offset, h, w: (_scaled(conv, scale), _map(conv, offset, w, h))),
}

_CASES = (  # channels in and out, kernel, stride, padding, bias, height, width
    (3, 4, 3, 1, 1, True, 6, 6), (2, 2, 3, 2, 1, True, 7, 5), (2, 3, 5, 1, 2, False, 6, 8), (3, 2, 3, 1, 0, True, 5, 5),
    (2, 5, 1, 1, 0, True, 1, 1), (4, 1, (3, 1), (2, 1), (1, 0), True, 5, 4))


def _check(student):
    torch.manual_seed(0)
    for case in _CASES:
        c_in, c_out, kernel, stride, padding, bias, height, width = case
        conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=bias, dtype=torch.float64)
        scale = torch.randn(c_in, dtype=torch.float64) + 0.3
        offset = torch.randn(c_in, dtype=torch.float64)
        before = [p.detach().clone() for p in conv.parameters()]
        result = student(conv, scale.clone(), offset.clone(), height, width)
        require(all(map(same, conv.parameters(), before)), "your function changes the convolution that it is given; "
                                                           "make new tensors")
        where = (f"{c_in} channels to {c_out}, kernel {kernel}, stride {stride}, padding {padding}, "
                 f"an input of {height} by {width}")
        with torch.no_grad():
            _compare(result, conv, scale, offset, height, width, where)


def _compare(result, conv, scale, offset, height, width, where) -> None:
    weight, term = _pair(result, conv)
    for message, variant in _VARIANTS.values():
        if _same_pair((weight, term), variant(conv, scale, offset, height, width)) and not _same_pair(
                (weight, term), _fold_into_conv(conv, scale, offset, height, width)):
            raise Wrong(message)
    h = torch.randn(2, conv.in_channels, height, width, dtype=torch.float64)
    expected = conv(scale.view(1, -1, 1, 1) * h + offset.view(1, -1, 1, 1))
    try:
        got = F.conv2d(h, weight, None, conv.stride, conv.padding) + term
    except RuntimeError:
        got = None
    fits = got is not None and got.shape == expected.shape
    require(fits, f"the term has the shape {list(term.shape)} for {where}; expected {list(expected.shape[1:])}")
    close(got, expected, where, what="conv2d(h, weight) + term")


def _pair(result, conv):
    require(isinstance(result, tuple | list) and len(result) == 2,
            "return two things, the weight and the term: `return weight, term`")
    weight, term = (torch.from_numpy(array(part, what)) for part, what in zip(result, ("the weight", "the term"),
                                                                              strict=True))
    require(weight.shape == conv.weight.shape,
            f"the weight has the shape {list(weight.shape)}; expected that of conv.weight, {list(conv.weight.shape)}")
    return weight, term


def _same_pair(one, other) -> bool:
    """Equal, up to leading axes of length 1 and constants given as such."""
    (weight, term), (their_weight, their_term) = one, other
    if not same(weight, their_weight):
        return False
    terms = [t.reshape(t.shape[1:]) if t.dim() == 4 and len(t) == 1 else t for t in (term, their_term)]
    if terms[0].dim() == 1 and terms[1].shape[1:] == (1, 1):
        terms[0] = terms[0].view(-1, 1, 1)
    return same(*(t.detach() for t in terms))


FOLD = Spec(
    id="6.4", title="fold a norm into the next convolution",
    task="In eval mode a norm is `scale * h + offset` per channel. Write the weight and the term that let the "
         "zero-padded convolution behind it do the same, borders included.",
    stub=fold_into_conv, reference=_fold_into_conv, check=_check,
    hints=("A convolution is linear: what it makes of `scale * h + offset` is what it makes of `scale * h`, plus what "
           "it makes of `offset`.",
           "For the first part scale the weight along the axis that meets the channels of h. For the second, ask "
           "what map of `height` by `width` the convolution sees if h is 0.",
           "Give the convolution itself a map that is `offset` in every pixel: it knows its padding, its stride and "
           "its bias."),
    mutants={name: Mutant(variant, says=said) for name, (said, variant) in _VARIANTS.items()},
    why="The convolution pads the normalized map, and pads it with zeros, not with the offset. So what the offset "
        "adds is the convolution of a constant map, and along the border of that map a part of the kernel reads zeros. "
        "`norms.fold` does the same.")
