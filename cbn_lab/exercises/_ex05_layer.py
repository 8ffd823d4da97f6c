"""Exercises 5.3 and 5.4: through which activations a scale passes, and what standardizing cannot prevent."""

import numpy as np

from cbn_lab import activations
from cbn_lab.exercises.core import Mutant, Spec, Wrong, require
from cbn_lab.exercises.tools import array, call

FIVE = ("relu", "sigmoid", "tanh", "selu", "swish")
_EPS = 1e-5


def worst_batch(samples, channels):
    """Returns pre-activations z [samples, channels], float64."""
    raise NotImplementedError


def worst_batch_solution(samples, channels):
    signal = np.linspace(-2.0, 2.0, samples)
    return np.repeat(signal[:, None], channels, axis=1)


def _behind(name: str, z: np.ndarray) -> tuple[float, float, np.ndarray]:
    """(top eigenvalue, trace, variances of f(z)) of f(z) standardized."""
    h = activations.evaluate(name, z)
    variance = h.var(axis=0)
    y = (h - h.mean(0)) / np.sqrt(variance + _EPS)
    values = np.linalg.eigvalsh(y.T @ y / len(y))
    return float(values[-1]), float(values.sum()), variance


def check_worst_batch(student) -> None:
    for samples, channels in ((32, 4), (12, 3), (200, 20), (16, 24)):
        z = array(call(student, samples, channels), "z")
        require(z.shape == (samples, channels),
                f"z has the shape {list(z.shape)} for {samples} samples and {channels} channels; expected "
                f"[{samples}, {channels}]" + (": a row is a sample" if z.shape == (channels, samples) else ""))
        require(np.isfinite(z).all(), "z contains inf or nan")
        _require_variation(z)
        for name in FIVE:
            _require_one_direction(name, z, channels)


def _require_variation(z: np.ndarray) -> None:
    constant = np.flatnonzero(np.ptp(z, axis=0) == 0)
    require(constant.size < z.shape[1], "no channel varies over the batch. What is standardized is then 0, and the "
                                        "trace is 0, not N")
    if constant.size:
        raise Wrong(f"channel {constant[0]} is constant over the batch: standardized it is 0 and adds nothing to the "
                    "trace, which is to be N")


def _require_one_direction(name: str, z: np.ndarray, channels: int) -> None:
    top, trace, variance = _behind(name, z)
    dead = np.flatnonzero(variance == 0)
    if dead.size:
        raise Wrong(f"behind {name} channel {dead[0]} is constant (a dead channel), so it adds nothing to the trace; "
                    "let every channel reach the side of 0 where the activation works")
    share = top / trace
    if share < 0.999:
        raise Wrong(f"{_why_spread(z, share)}: for {name} the top eigenvalue is {top:.3g} of a trace of {trace:.3g}")
    if trace < 0.9 * channels:
        raise Wrong(f"one direction has all of the trace, but for {name} the trace is {trace:.3g} and not {channels}: "
                    f"f(z) varies so little (variance {variance.min():.1g}) that eps = {_EPS:g} counts. Spread z more")


def _why_spread(z: np.ndarray, share: float) -> str:
    """What is wrong with z, of which f leaves more than one direction."""
    correlation = np.corrcoef(z.T)
    if np.abs(correlation).min() > 0.9999:
        if correlation.min() < 0:
            return "channels of opposite sign pass a test with odd functions only, since f(-z) is not -f(z)"
        return ("your channels lie on one line before the activation, but with different scale or mean, and f bends "
                "each of them differently")
    if (z.mean(0) ** 2 > 25 * z.var(0)).all():
        return "a large mean does not help, since standardizing takes it away"
    if share > 0.6:
        return "the channels go together, but not perfectly. What must hold between two columns? So far"
    return "your channels carry different signals, and all of them have to carry one"


def _noise(samples, channels):
    return np.random.default_rng(0).standard_normal((samples, channels))


def _signal(samples, factors):
    return np.linspace(-2.0, 2.0, samples)[:, None] * np.asarray(factors, dtype=float)[None, :]


def _waves(samples, channels):
    time = (np.arange(samples)[:, None] + 0.5) * np.pi / samples
    return np.cos(time * (1 + np.arange(channels)[None, :]))


WORST = Spec(
    id="5.4", title="a batch that standardizing cannot spread",
    task="Behind the standardization (gamma 1, shift 0) the trace of $\\mathbb E[yy^\\top]$ is $N$ for every "
         "activation, if no channel is constant and eps does not count. Its top eigenvalue may still be all of that. "
         "Return pre-activations z, `[samples, channels]`, for which this happens with each of Sigmoid, Tanh, ReLU, "
         "SELU and Swish.",
    stub=worst_batch, reference=worst_batch_solution, check=check_worst_batch,
    hints=("The top eigenvalue is the whole trace if all other eigenvalues are 0: what is the rank of the matrix then?",
           "Every channel of y must be the same signal, up to its sign. f acts on each channel by itself.",
           "What you put into f decides: channels that are equal before f are equal behind it, whatever f is."),
    mutants={
        "independent channels": Mutant(_noise, "your channels carry different signals"),
        "a constant batch": Mutant(lambda samples, channels: np.ones((samples, channels)), "no channel varies"),
        "one channel that varies": Mutant(lambda samples, channels: _signal(samples, [1.0] + [0.0] * (channels - 1)),
                                          "is constant over the batch"),
        "a large mean": Mutant(lambda samples, channels: 6.0 + 0.3 * _noise(samples, channels),
                               "a large mean does not help"),
        "multiples of one signal": Mutant(lambda samples, channels: _signal(samples, 1 + np.arange(channels)),
                                          "f bends each of them differently"),
        "alternating signs": Mutant(lambda samples, channels: _signal(samples, (-1.0) ** np.arange(channels)),
                                    "channels of opposite sign"),
        "a signal and some noise": Mutant(
            lambda samples, channels: _signal(samples, np.ones(channels)) + 0.4 * _noise(samples, channels),
            "go together, but not perfectly"),
        "too small for eps": Mutant(lambda samples, channels: 0.01 * _signal(samples, np.ones(channels)),
                                    "varies so little"),
        "dead under ReLU": Mutant(lambda samples, channels: _signal(samples, np.ones(channels)) - 5.0,
                                  "(a dead channel)"),
        "transposed": Mutant(lambda samples, channels: _signal(samples, np.ones(channels)).T, ": a row is a sample"),
    },
    why="A trace says how much there is, not how it is spread. Equal channels have rank one behind every activation. "
        "So no bound on the top eigenvalue below the trace can be proved from standardizing alone.")


def scale_passes(f):
    """f: NumPy function of an array. Returns True if f(a z) = a f(z) for every z and every a > 0, else False."""
    raise NotImplementedError


def scale_passes_solution(f):
    z = np.linspace(-9.0, 9.0, 181)
    size = np.abs(f(z)).max() + np.abs(f(10 * z)).max()
    return all(np.abs(f(a * z) - a * f(z)).max() <= 1e-9 * size for a in (0.01, 0.7, 3.0, 10.0))


def _wave(base: float):
    """f(a z) = a f(z) for the powers a of one number and for no other: it passes a test with that a alone."""
    def f(z):
        size = np.abs(z) + (z == 0)  # no logarithm of 0; the factor z makes f(0) = 0
        return z * (2 + np.sin(2 * np.pi * np.log(size) / np.log(base)))

    return f


_WAVES = {f"z (2 + sin(2 pi log_{base}|z|))": (_wave(base), False) for base in (1.5, 2, 2.5, 3, 5, 7, 10)}
_PASSES = {
    "relu": (lambda z: np.maximum(z, 0.0), True), "z": (lambda z: 1.0 * z, True),
    "abs": (np.abs, True), "leaky relu": (lambda z: np.where(z > 0, z, 0.1 * z), True),
    "1e6 * relu": (lambda z: 1e6 * np.maximum(z, 0.0), True), "0": (lambda z: 0.0 * z, True),
    "tanh": (np.tanh, False), "sigmoid": (lambda z: 1 / (1 + np.exp(-np.clip(z, -500, 500))), False),
    "selu": (lambda z: 1.0507 * np.where(z > 0, z, 1.67326 * np.expm1(np.minimum(z, 0.0))), False),
    "elu of -z": (lambda z: np.where(z < 0, -z, np.expm1(-np.maximum(z, 0.0))), False),
    "swish": (lambda z: z / (1 + np.exp(-np.clip(z, -500, 500))), False),
    "relu, at most 6": (lambda z: np.clip(z, 0.0, 6.0), False),
    "z between -1 and 1": (lambda z: np.clip(z, -1.0, 1.0), False), "z**2": (np.square, False),
    "sign": (np.sign, False), "relu + 0.01": (lambda z: np.maximum(z, 0.0) + 0.01, False),
    "0.0001 * tanh": (lambda z: 1e-4 * np.tanh(z), False),
} | _WAVES


def check_scale_passes(student) -> None:
    answers = {}
    for name, (f, _) in _PASSES.items():
        said = call(student, f)
        require(isinstance(said, bool | np.bool_) or str(getattr(said, "dtype", "")) in ("bool", "torch.bool"),
                f"your function returns {said!r:.40} for f = {name}; expected one truth value")
        require(np.size(said) == 1, f"your function returns {np.size(said)} truth values for f = {name}; expected one "
                                    "(`np.all`?)")
        answers[name] = bool(said)
    right = {name: answer for name, (_, answer) in _PASSES.items()}
    passed = {name for name, answer in answers.items() if answer}
    _name_the_mistake(answers, right, passed)
    for name, answer in answers.items():
        require(answer == right[name], f"for f = {name} your answer is {answer}: look for a z and an a > 0 that decide")


def _name_the_mistake(answers, right, passed) -> None:
    require(any(answers[name] == right[name] for name in right), "every answer is the opposite of the right one")
    require(len(passed) < len(right), "every function passes, tanh too: does a ever differ from 1?")
    require(passed, "no function passes, not even f(z) = z")
    require(not (answers["sign"] and not answers["z"]),
            "sign passes and z does not: f(a z) = f(z) is another property; the factor a has to come out again")
    require(not (answers["tanh"] and not answers["sigmoid"]),
            "tanh passes and sigmoid does not: f(0) = 0 is necessary, not enough")
    require(not (answers["z"] and not answers["relu"] and not answers["abs"]),
            "ReLU fails and z passes: only straight lines pass your test. Is a negative, or do you test sums?")
    require(answers["leaky relu"] or not answers["relu"],
            "leaky ReLU fails and ReLU passes: 0.1 * (3 z) and 3 * (0.1 z) differ in the last digit. Compare up to "
            "rounding")
    require(answers["1e6 * relu"] or not answers["relu"],
            "ReLU passes and a million times ReLU fails: rounding is relative to the size of the values")
    require(not answers["0.0001 * tanh"] or answers["tanh"],
            "tanh fails and 0.0001 * tanh passes: an absolute tolerance lets every small function pass")
    for name in ("selu", "elu of -z"):
        require(not answers[name], f"{name} passes: it is a straight line on one side of 0 and curved on the other, so "
                                   "z must take both signs")
    require(not (answers["z between -1 and 1"] or answers["relu, at most 6"]),
            "a clipped line passes: it is straight near 0, so a z must leave the straight part, beyond 6 say")
    for name in _WAVES:
        require(not answers[name], f"f(z) = {name} passes: it comes back at the powers of one number. Test several a "
                                   "that are not powers of each other")


def _tested(z, scales, equal=lambda a, b: np.allclose(a, b, rtol=1e-9, atol=1e-12)):
    return lambda f: all(equal(f(a * z), a * f(z)) for a in scales)


_LINE = np.linspace(-9.0, 9.0, 181)

SCALE = Spec(
    id="5.3", title="the scale passes through",
    task="Write a numerical test of positive homogeneity: `True` if f(a z) = a f(z) for every z and every a > 0, up "
         "to rounding. f is any NumPy function of an array.",
    stub=scale_passes, reference=scale_passes_solution, check=check_scale_passes,
    hints=("Evaluate both sides on a grid of z with both signs, for several a, small and large.",
           "Let a z reach well beyond where a function could still look straight; 10 times 9 will do.",
           "Compare relative to the size of the values: f may be a million times ReLU, or a thousandth of tanh."),
    mutants={
        "a is 1": Mutant(_tested(_LINE, (1.0,)), "does a ever differ from 1?"),
        "a of both signs": Mutant(_tested(_LINE, (-2.0, 0.5, 3.0)), "only straight lines pass"),
        "positive z only": Mutant(_tested(_LINE[_LINE > 0], (0.1, 3.0)), "so z must take both signs"),
        "small z only": Mutant(_tested(_LINE / 18, (0.5, 1.5)), "a clipped line passes"),
        "exactly equal": Mutant(_tested(_LINE, (0.7, 3.0), np.array_equal), "Compare up to rounding"),
        "absolute tolerance, large": Mutant(_tested(_LINE, (0.5, 3.0), lambda a, b: np.abs(a - b).max() < 1e-3),
                                            "lets every small function pass"),
        "absolute tolerance, tiny": Mutant(_tested(_LINE, (0.7, 3.0), lambda a, b: np.abs(a - b).max() < 1e-13),
                                           "rounding is relative to the size"),
        "invariance": Mutant(lambda f: bool(np.allclose(f(3.0 * _LINE), f(_LINE))), "is another property"),
        "f(0) = 0": Mutant(lambda f: bool(abs(f(np.zeros(1))[0]) < 1e-12), "is necessary, not enough"),
        "reversed": Mutant(lambda f: not scale_passes_solution(f), "the opposite of the right one"),
        "one a alone": Mutant(_tested(_LINE, (5.0,)), "powers of one number"),
        "an array of answers": Mutant(lambda f: np.isclose(f(3.0 * _LINE), 3.0 * f(_LINE)), "truth values for f"),
    },
    why="In one dimension the homogeneous functions are two half lines that meet at 0: ReLU, leaky ReLU, |z|, z. "
        "Through any other activation the scale of the weight changes the function that the block computes.")
