"""Assumptions broken one by one: the first line that fails is the one where the assumption enters, and it is named."""

import math

import numpy as np
import pytest

from cbn_lab import theory
from cbn_lab.theory import meter, oracles, problems

SEEDS = range(3)


def _cosh(noise=0.2, **claims):
    """A problem of a reader's own, one point at a time: sum of sqrt(1 + w^2), L = 1, f* = d."""
    def gradient(w):
        return w / np.sqrt(1 + w**2)

    given = {"oracle": lambda w, rng: gradient(w) + noise * rng.uniform(-1, 1, w.shape), "L": 1.0, "f_star": 2.0,
             "sigma2": 2 * noise**2 / 3, "start": [1.5, -2.0]}
    return theory.Problem(lambda w: float(np.sqrt(1 + w**2).sum()), gradient, **given | claims)


def _data(batch=2, **claims):
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((8, 2)), np.sign(rng.standard_normal(8))
    return problems.logistic(X, y, batch=batch, start=[2.0, -2.0], **claims)


def _quadratic(**claims):
    return problems.quadratic([1.0, 0.4, 0.1], sigma=0.4, **claims)


MAKERS = {"sampled": _cosh, "enumerable": _data, "closed form": _quadratic}


def _check(problem, step, steps=30, seed=0):
    evaluation = theory.chain().evaluate(theory.run(problem, step, steps, seed=seed, paths=100))
    return evaluation, evaluation.failure()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_wrong_L(kind, seed):
    problem = MAKERS[kind]()
    share = {"sampled": 0.7, "enumerable": 0.2, "closed form": 0.95}[kind]
    _, failure = _check(problem.claim(L=share * problem.L), 0.5, seed=seed)
    assert (failure.line.name, failure.assumption.name) == ("descent lemma", "L-smooth")
    assert "needs an L of at least" in failure.how and failure.slack < 0


def test_the_needed_L_is_the_curvature_along_the_step():
    _, failure = _check(problems.quadratic([3.0], L=2.0), 0.1)
    assert "needs an L of at least 3, claimed is 2" in failure.how


def test_a_wrong_L_that_the_run_does_not_meet_is_found_and_the_lines_hold_here():
    problem = problems.quadratic([1.0, 0.1], start=[0.0, 1.0], L=0.5)
    evaluation, failure = _check(problem, 0.5)
    assert failure is None
    rows = {row.line.name: row for row in evaluation.rows()}
    assert rows["descent lemma"].status == "holds here" and "L-smooth" in rows["descent lemma"].note
    assert rows["lower bound"].status == "holds"
    assert "changes 1 times as much as the point; claimed is L = 0.5" in evaluation.findings["L-smooth"].how


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_wrong_variance(kind, seed):
    problem = MAKERS[kind]()
    state = theory.run(problem, 0.5, 30, paths=100)
    true = problem.sigma2 if state.visits[0].variance is None else state.visits[0].variance.max() / state.factor
    _, failure = _check(problem.claim(sigma2=0.7 * true), 0.5, seed=seed)
    assert (failure.line.name, failure.assumption.name) == ("bounded variance", "bounded variance")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("scale", "shift"), [(0.7, 0.0), (1.3, 0.0), (1.0, 0.15)])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_biased_oracle(kind, scale, shift, seed):
    problem = MAKERS[kind]()
    biased = problem.claim(oracle=oracles.Biased(problem.oracle, scale, np.full(problem.d, shift)),
                           sigma2=None if problem.sigma2 is None else 4 * problem.sigma2)
    _, failure = _check(biased, 0.3, seed=seed)
    assert (failure.line.name, failure.assumption.name) == ("unbiased gradient", "unbiased gradient")


def test_a_bias_at_right_angles_is_found_by_the_decomposition():
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    problem = problems.quadratic([1.0, 1.0], sigma=0.1)

    class Turned:
        vectorized = True

        def sample(self, w, rng):
            return self.moments(w)[0] + 0.1 * rng.standard_normal(w.shape)

        def moments(self, w):
            return w + 0.3 * w @ turn, np.full(w.shape[:-1], 0.02)

    _, failure = _check(problem.claim(oracle=Turned(), sigma2=0.02), 0.2)
    assert (failure.line.name, failure.assumption.name) == ("decomposition", "unbiased gradient")
    sampled = problem.claim(oracle=lambda w, rng: w + 0.3 * w @ turn + 0.1 * rng.standard_normal(2), sigma2=0.02)
    _, failure = _check(sampled, 0.2)
    assert failure.assumption.name == "unbiased gradient"


@pytest.mark.parametrize("kind", MAKERS)
def test_a_wrong_lower_bound(kind):
    problem = MAKERS[kind]()
    lowest = min(visit.value.min() for visit in theory.run(problem, 0.5, 30, paths=100).visits)
    _, failure = _check(problem.claim(f_star=lowest + 0.05), 0.5)
    assert (failure.line.name, failure.assumption.name) == ("lower bound", "bounded below by f*")
    evaluation, failure = _check(problem.claim(f_star=problem.f_star + 1e-3 if kind != "enumerable" else 0.3), 0.01, 3)
    if kind != "enumerable":
        assert failure is None and "lower bound" in {r.line.name for r in evaluation.rows() if r.status == "holds here"}
        assert "there is a point with value" in evaluation.findings["bounded below by f*"].how


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("step", [1.2, 1.9, 2.5])
def test_too_big_a_step(kind, step):
    problem = MAKERS[kind]()
    evaluation, failure = _check(problem, step / problem.L)
    assert (failure.line.name, failure.assumption.name) == ("absorbing the step", "step at most 1/L")
    status = {row.line.name: row.status for row in evaluation.rows()}
    assert status["fixed step, G^2"] == "holds", "the bound in G^2 has no condition on the step"
    assert (status["Ghadimi-Lan 2.1(a)"] == "fails") == (step > 2)
    assert status["fixed step, sigma^2"] in ("holds here", "fails")


def test_only_the_first_of_diminishing_steps_is_too_big():
    problem = problems.quadratic([1.0], sigma=0.3)
    _, failure = _check(problem, 1.5 / np.arange(1, 20), None)
    assert (failure.line.name, failure.step) == ("absorbing the step", 1) and "step number 1" in failure.how


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("noise", [oracles.student_t(1.6), oracles.pareto(1.6)])
@pytest.mark.parametrize("known", [True, False])
def test_heavy_tails(noise, known, seed):
    problem = problems.quadratic([1.0, 0.4], sigma=0.3, noise=noise)
    if not known:
        draw = problem.oracle.sample
        problem = problem.claim(oracle=lambda w, rng: draw(w, rng), sigma2=0.09)
    evaluation, failure = _check(problem, 0.3, seed=seed)
    assert (failure.line.name, failure.assumption.name) == ("bounded variance", "bounded variance")
    if known:
        assert failure.left == math.inf and "finite second moment" in failure.also_broken
        rows = {row.line.name: row for row in evaluation.rows()}
        assert rows["taking expectations"].status == "holds here"
        assert "an infinite right side says nothing" in rows["taking expectations"].note
    else:
        assert "betting on" in failure.how


def test_the_tail_of_a_sampled_oracle_is_estimated():
    def oracle(w, rng):
        return w + 0.1 * rng.standard_t(1.4, 2)

    problem = theory.Problem(lambda w: w @ w / 2, lambda w: w, oracle, [1.0, 1.0], L=1.0, sigma2=0.05)
    failure = theory.chain().check(theory.run(problem, 0.3, 60))
    assert "Hill's estimate of the tail index of |g - gradient| is 1." in failure.how


@pytest.mark.parametrize("start", [0.95, 0.31, -1.27])
def test_a_kink(start):
    _, failure = _check(problems.kink(start=start, claimed_L=2.0), 0.1)
    assert (failure.line.name, failure.assumption.name) == ("descent lemma", "L-smooth")


def test_an_infinite_L_makes_the_descent_lemma_empty_and_allows_no_step():
    evaluation, failure = _check(problems.kink(claimed_L=math.inf), 0.2)
    assert (failure.line.name, failure.assumption.name) == ("absorbing the step", "step at most 1/L")
    rows = {row.line.name: row for row in evaluation.rows()}
    assert rows["descent lemma"].status == "holds" and "an infinite right side" in rows["descent lemma"].note


def test_a_gradient_that_is_not_that_of_the_value():
    problem = _quadratic()
    def gradient(w):
        return 2 * problem.gradient(w)

    wrong = problem.claim(gradient=gradient, quadratic=None, oracle=oracles.Additive(gradient, 0.1), sigma2=0.01)
    _, failure = _check(wrong, 0.2)
    assert (failure.line.name, failure.assumption.name) == ("descent lemma", "the gradient is that of F")
    assert "L-smooth" in failure.also_broken


def test_a_wrong_bound_of_the_second_moment():
    for kind, problem in MAKERS.items():
        _, failure = _check(problem().claim(G2=0.01), 0.3)
        assert (failure.line.name, failure.assumption.name) == ("bounded second moment", "bounded second moment"), kind


def test_mini_batches_that_are_not_uniform():
    X, y = problems.digits(8)
    fair = problems.logistic(X, y, batch=2, replacement=False)
    pairs = [[0, 1], [2, 3], [4, 5], [6, 7]]  # every sample once, but never with another partner

    class Blocks:
        vectorized, single, factor = True, fair.oracle.single, fair.oracle.factor

        def outcomes(self, w):
            gradients = fair.oracle.per_sample(w)
            return np.stack([gradients[..., pair, :].mean(axis=-2) for pair in pairs], axis=-2), np.full(4, 0.25)

        def sample(self, w, rng):
            return np.take_along_axis(self.outcomes(w)[0], rng.integers(4, size=w.shape[:-1])[..., None, None],
                                      axis=-2)[..., 0, :]

    evaluation, failure = _check(fair.claim(oracle=Blocks()), 0.5, 4)
    assert (failure.line.name, failure.assumption.name) == ("mini-batch variance", "uniform mini-batches")
    assert {row.line.name for row in evaluation.rows() if row.status == "holds here"} == {"mini-batch"}


def test_the_limits_of_bottou_curtis_and_nocedal_allow_a_bias_and_are_checked():
    problem = _quadratic()
    halved = problem.claim(oracle=oracles.Biased(problem.oracle, 0.5), mu=0.5, mu_G=0.5, sigma2=0.04)
    evaluation, failure = _check(halved, 0.5)
    assert failure.line.name == "unbiased gradient"
    status = {row.line.name: row.status for row in evaluation.rows()}
    assert status["moment limits"] == status["Bottou-Curtis-Nocedal 4.8"] == "holds"
    chain = theory.chain("Bottou-Curtis-Nocedal 4.8")
    assert chain.check(evaluation.state) is None
    for claims, broken in ((dict(mu=0.6), "limits of the mean of g"), (dict(mu_G=0.4), "limits of the mean of g"),
                           (dict(M=0.02), "limit of the variance of g"), (dict(mu_G=2.0), "step at most mu/(L M_G)")):
        rows = {row.line.name: row for row in chain.table(theory.run(halved.claim(**claims), 0.5, 30))}
        assert broken in rows["Bottou-Curtis-Nocedal 4.8"].broken, claims


def test_limits_of_a_sampled_oracle():
    problem = _cosh(mu=0.5, mu_G=0.5)
    halved = problem.claim(oracle=oracles.Biased(problem.oracle, 0.5))
    state = theory.run(halved, 0.2, 40)
    assert not theory.chain().assumptions(state)["limits of the mean of g"].broken
    for claims in (dict(mu=0.7), dict(mu_G=0.3)):
        state = theory.run(halved.claim(**claims), 0.2, 40)
        assert theory.chain().assumptions(state)["limits of the mean of g"].broken, claims


EXPECTED = {"nothing": None, "L claimed too small": ("descent lemma", "L-smooth"),
            "step above 1/L": ("absorbing the step", "step at most 1/L"),
            "step above 2/L": ("absorbing the step", "step at most 1/L"),
            "biased gradient": ("unbiased gradient", "unbiased gradient"),
            "variance claimed too small": ("bounded variance", "bounded variance"),
            "heavy tail": ("bounded variance", "bounded variance"),
            "f* claimed too high": ("lower bound", "bounded below by f*"), "a kink": ("descent lemma", "L-smooth")}


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("broken", meter.BREAKS)
def test_the_meter_breaks_one_assumption_at_a_time(broken, batch):
    failure = theory.chain().check(meter.meter(broken=broken, batch=batch))
    assert (failure and (failure.line.name, failure.assumption.name)) == EXPECTED[broken]


def test_the_meter_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="'luck' cannot be broken here; known: nothing, L claimed"):
        meter.meter(broken="luck")
