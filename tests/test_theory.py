"""The chain of inequalities: exact expectations against naive twins, constants of the problems, no false alarms."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbn_lab import theory
from cbn_lab.theory import margins, oracles, problems

NAMES = ["descent lemma", "taking expectations", "unbiased gradient", "one step", "decomposition", "bounded variance",
         "telescoping", "lower bound", "bounded second moment", "fixed step, G^2", "absorbing the step",
         "fixed step, sigma^2", "best step", "diminishing steps", "mini-batch variance", "mini-batch", "moment limits",
         "Bottou-Curtis-Nocedal 4.8", "Ghadimi-Lan 2.1(a)"]


def _data(n=5, d=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), np.sign(rng.standard_normal(n))


def _status(state):
    return {row.line.name: row.status for row in theory.chain().table(state)}


def test_the_chain_has_the_lines_of_the_proof_and_each_follows_from_earlier_ones():
    chain = theory.chain()
    assert [line.name for line in chain] == NAMES
    assert {a.name for a in chain.needs("fixed step, sigma^2")} == {
        "bounded variance", "unbiased gradient", "finite second moment", "the gradient is that of F", "L-smooth",
        "bounded below by f*", "step at most 1/L"}
    assert "step at most 1/L" not in {a.name for a in chain.needs("fixed step, G^2")}
    assert "unbiased gradient" not in {a.name for a in chain.needs("Bottou-Curtis-Nocedal 4.8")}
    part = theory.chain("telescoping")
    assert [line.name for line in part] == ["descent lemma", "taking expectations", "unbiased gradient", "one step",
                                            "telescoping"]
    with pytest.raises(KeyError, match="no line 'gradient'; the lines are: descent lemma"):
        theory.chain("gradient")


def test_theory_does_not_import_torch():
    code = ("import sys\nfrom cbn_lab import theory\np = theory.problems.quadratic([1.0])\n"
            "theory.chain().table(theory.run(p, 0.5, 3))\nassert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


# Exact expectations ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("replacement", [True, False])
def test_enumerated_expectations_agree_with_a_loop_over_all_ordered_mini_batches(replacement):
    X, y = _data(4)
    problem = problems.logistic(X, y, batch=2, replacement=replacement, start=[0.5, -1.0])
    state = theory.run(problem, [0.7, 0.4])
    assert state.expectations.startswith("enumerated") and state.exact
    batches = list(itertools.product(range(4), repeat=2) if replacement else itertools.permutations(range(4), 2))

    def gradient(w, batch):
        return np.mean([-y[i] * X[i] / (1 + math.exp(y[i] * X[i] @ w)) for i in batch], axis=0)

    def value(w):
        return np.mean([math.log(1 + math.exp(-yi * xi @ w)) for xi, yi in zip(X, y, strict=True)])

    start = np.array([0.5, -1.0])
    middle = [start - 0.7 * gradient(start, batch) for batch in batches]
    ends = [w - 0.4 * gradient(w, batch) for w in middle for batch in batches]
    everything = range(4)
    assert state.totals.value[:, 0] == pytest.approx(
        [value(start), np.mean([value(w) for w in middle]), np.mean([value(w) for w in ends])], rel=1e-12)
    assert state.totals.squared[1, 0] == pytest.approx(
        np.mean([np.sum(gradient(w, everything) ** 2) for w in middle]), rel=1e-12)
    assert state.totals.second[1, 0] == pytest.approx(
        np.mean([np.sum(gradient(w, batch) ** 2) for w in middle for batch in batches]), rel=1e-12)


def test_closed_form_agrees_with_enumerating_a_noise_of_equal_mean_and_covariance():
    gaussian = problems.quadratic([2.0, 0.3], sigma=0.7, start=[1.0, -2.0], center=[0.3, 0.1], rotation_seed=3)
    coins = gaussian.claim(oracle=oracles.CoinFlips(gaussian.gradient, 0.7))
    alphas = [0.3, 0.4, 0.1, 0.2, 0.35]
    closed, counted = theory.run(gaussian, alphas), theory.run(coins, alphas)
    assert closed.expectations == "closed form" and counted.expectations == f"enumerated, {4**5} paths"
    for name in ("value", "squared", "second", "drawn_inner"):
        assert np.allclose(getattr(closed.totals, name), getattr(counted.totals, name), rtol=1e-12), name


@pytest.mark.parametrize("change", [{"scale": 0.6, "shift": [0.2, -0.1]}, {"scale": 1.4}])
def test_closed_form_of_a_biased_oracle_agrees_with_enumeration(change):
    problem = problems.quadratic([1.0, 0.3], sigma=0.5)
    closed = problem.claim(oracle=oracles.Biased(problem.oracle, **change))
    counted = problem.claim(oracle=oracles.Biased(oracles.CoinFlips(problem.gradient, 0.5), **change))
    one, other = theory.run(closed, 0.4, 5), theory.run(counted, 0.4, 5)
    for name in ("value", "squared", "second", "drawn_inner"):
        assert np.allclose(getattr(one.totals, name), getattr(other.totals, name), rtol=1e-12), name


@given(st.integers(2, 6), st.integers(1, 4), st.booleans(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_mini_batch_variance_is_the_formula_and_the_sum_over_all_mini_batches(n, b, replacement, seed):
    if b > n and not replacement:
        b = n
    X, _ = _data(n, 3, seed)
    oracle = oracles.FiniteSum(lambda w: np.broadcast_to(X, (*w.shape[:-1], n, 3)), n, b, replacement=replacement)
    w = np.zeros(3)
    mean, variance = oracle.moments(w)
    rows = itertools.product(range(n), repeat=b) if replacement else itertools.combinations(range(n), b)
    naive = [np.sum((X[list(row)].mean(axis=0) - X.mean(axis=0)) ** 2) for row in rows]
    one = np.sum((X - X.mean(axis=0)) ** 2) / n
    assert variance == pytest.approx(np.mean(naive), abs=1e-12)
    assert variance == pytest.approx(one / b * (1 if replacement else (n - b) / (n - 1)), abs=1e-12)
    assert np.allclose(mean, X.mean(axis=0))
    gradients, probabilities = oracle.outcomes(w)
    assert probabilities.sum() == pytest.approx(1) and np.allclose(probabilities @ gradients, mean)


def test_the_known_pair_moments_of_a_large_sum_are_those_of_enumeration():
    for replacement in (True, False):
        oracle = oracles.FiniteSum(lambda w: w, 7, 3, replacement=replacement)
        assert np.allclose(oracle._known_pairs(), oracle._enumerated_pairs(), atol=1e-15)


def test_sampled_mini_batches_have_the_right_members():
    X = np.eye(6)
    for replacement in (True, False):
        oracle = oracles.FiniteSum(lambda w: np.broadcast_to(X, (*w.shape[:-1], 6, 6)), 6, 3, replacement=replacement)
        draws = oracle.sample(np.zeros((4000, 6)), np.random.default_rng(0)) * 3
        assert np.allclose(draws.sum(axis=1), 3) and np.allclose(draws.mean(axis=0), 0.5, atol=0.06)
        assert (draws.max() > 1.5) == replacement


# Constants of the problems --------------------------------------------------------------------------------------------

def test_log_sum_has_L_one_exactly():
    x = np.linspace(-60, 60, 200_001)
    curvature = (1 - x**2 / 2) / (1 + x**2 / 2) ** 2
    assert curvature.max() == 1.0 and curvature.min() == pytest.approx(-1 / 8, abs=1e-6)
    problem = problems.log_sum(1)
    h = 1e-5
    numeric = (problem.gradient(x[:, None] + h) - problem.gradient(x[:, None] - h))[:, 0] / (2 * h)
    assert np.allclose(numeric, curvature, atol=1e-8)


@pytest.mark.parametrize("make", [problems.logistic, problems.least_squares])
def test_L_of_data_problems_is_attained_or_safe_and_their_gradients_are_those_of_the_mini_batches(make):
    X, y = problems.digits(40)
    problem = make(X, y, batch=3)
    w = np.random.default_rng(0).standard_normal((2, 65))
    assert np.allclose(problem.oracle.moments(w)[0], problem.gradient(w), atol=1e-13)
    direction = np.linalg.eigh(X.T @ X)[1][:, -1]
    slope = (problem.gradient(1e-4 * direction) - problem.gradient(-1e-4 * direction)) @ direction / 2e-4
    assert slope <= problem.L * (1 + 1e-6) and slope == pytest.approx(problem.L, rel=1e-4)
    h = 1e-5
    for i in (0, 30, 64):
        numeric = (problem.value(w[0] + h * np.eye(65)[i]) - problem.value(w[0] - h * np.eye(65)[i])) / (2 * h)
        assert numeric == pytest.approx(problem.gradient(w[0])[i], rel=1e-5, abs=1e-8)


def test_digits_are_the_bundled_ones():
    X, y = problems.digits(50, (3, 8))
    assert X.shape == (50, 65) and set(y) == {-1.0, 1.0} and np.all(X[:, -1] == 1)
    assert 0 < X[:, :-1].max() <= 1 / 8
    with pytest.raises(ValueError, match="not 5000"):
        problems.digits(5000)


# No false alarms ------------------------------------------------------------------------------------------------------

def _valid(kind: str, seed: int):
    rng = np.random.default_rng(seed)
    spectrum = np.exp(rng.uniform(-3, 1, 3))
    if kind == "one eigenvalue":
        return problems.quadratic([2.5] * 3, sigma=0.4, rotation_seed=seed, center=[1e3] * 3), 1 / 2.5, 30
    if kind == "one eigenvalue, no noise":
        return problems.quadratic([2.5] * 3, center=[1e3] * 3), 1 / 2.5, 30
    if kind == "heavy but finite":
        noise = oracles.student_t(2.3) if seed % 2 else oracles.pareto(2.4)
        return problems.quadratic(spectrum, sigma=1.0, noise=noise), 0.8 / spectrum.max(), 30
    if kind == "not convex":
        return problems.log_sum(2, sigma=1.0, start=5 * rng.standard_normal(2)), 1.0, 40
    if kind == "mini-batches":
        X, y = _data(12, 3, seed)
        problem = problems.logistic(X, y, batch=1 + seed % 5, replacement=bool(seed % 2))
        return problem, 1 / problem.L, 15
    if kind == "enumerated":
        X, y = _data(4, 2, seed)
        problem = problems.least_squares(X, y, batch=2, replacement=bool(seed % 2), radius=20)
        return problem, 1 / problem.L, 4
    if kind == "diminishing":
        return problems.log_sum(2, sigma=1.0), 1 / np.sqrt(1 + np.arange(30)), None
    sigma, skewed = 0.3, kind == "sampled, skewed"

    def oracle(w, rng):
        noise = (rng.random(2) < 0.002) - 0.002 if skewed else rng.standard_normal(2)
        return w * [1.0, 0.2] + sigma * noise / (math.sqrt(0.002 * 0.998) if skewed else 1)

    return theory.Problem(lambda w: 0.5 * w[0] ** 2 + 0.1 * w[1] ** 2 + 1e4, lambda w: w * [1.0, 0.2], oracle,
                          [1.0, 2.0], L=1.0, sigma2=2 * sigma**2, f_star=1e4), 1.0, 15


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["one eigenvalue", "one eigenvalue, no noise", "heavy but finite", "not convex",
                                  "mini-batches", "enumerated", "diminishing", "sampled", "sampled, skewed"])
def test_no_false_alarm_on_a_valid_problem(kind, seed):
    problem, step, steps = _valid(kind, seed)
    state = theory.run(problem, step, steps, paths=60, seed=seed)
    evaluation = theory.chain().evaluate(state)
    assert evaluation.failure() is None
    assert {row.status for row in evaluation.rows()} <= {"holds", "not stated"}
    assert not any(finding.broken for finding in theory.chain().assumptions(state).values())


def test_a_single_eigenvalue_L_makes_the_first_lines_equalities():
    state = theory.run(problems.quadratic([2.0, 2.0], sigma=0.5), 0.5, 20)
    chain = theory.chain()
    for name in ("descent lemma", "taking expectations", "one step", "bounded variance", "telescoping"):
        assert abs(chain[name].slack(state)) < 1e-12, name
    assert chain["fixed step, sigma^2"].slack(state) > 0


# Lines by hand --------------------------------------------------------------------------------------------------------

def test_bounds_are_those_of_the_statements():
    problem = problems.quadratic([1.0, 0.2], sigma=0.6, start=[2.0, 1.0], G2=9.0)
    state, K, alpha = theory.run(problem, 0.25, 12), 12, 0.25
    gap, sigma2, chain = 0.5 * 4 + 0.1 * 1, 0.36, theory.chain()
    mean = float(state.totals.squared.mean())
    assert chain["fixed step, G^2"].left(state) == pytest.approx(mean)
    assert chain["fixed step, G^2"].right(state) == pytest.approx(gap / (K * alpha) + alpha * 9 / 2)
    assert chain["fixed step, sigma^2"].right(state) == pytest.approx(2 * gap / (K * alpha) + alpha * sigma2)
    assert chain["best step"].left(state) == pytest.approx(math.sqrt(2 * gap * 9 / K))
    assert chain["Bottou-Curtis-Nocedal 4.8"].right(state) == pytest.approx(alpha * sigma2 + 2 * gap / (K * alpha))
    falling = theory.run(problem, [0.5, 0.3, 0.1])
    assert chain["diminishing steps"].right(falling) == pytest.approx((2 * gap + sigma2 * 0.35) / 0.9)
    assert chain["diminishing steps"].left(falling) == pytest.approx(
        [0.5, 0.3, 0.1] @ falling.totals.squared[:, 0] / 0.9)
    total = K * (2 * alpha - alpha**2)
    assert chain["Ghadimi-Lan 2.1(a)"].right(state) == pytest.approx((2 * gap + sigma2 * K * alpha**2) / total)
    assert chain["Ghadimi-Lan 2.1(a)"].left(state) == pytest.approx(mean)
    limits = theory.run(problem.claim(mu=0.5, mu_G=1.5, M=0.5, M_V=0.3), 0.1, 12)
    assert chain["moment limits"].right(limits) - chain["moment limits"].left(limits) == pytest.approx(
        0.5 - 0.36 + (0.3 + 1.5**2 - 1) * limits.visits[-1].squared.min())
    assert chain["Bottou-Curtis-Nocedal 4.8"].right(limits) == pytest.approx(0.1 + 2 * gap / (K * 0.5 * 0.1))


def test_best_step_is_where_the_bound_is_smallest():
    problem = problems.quadratic([1.0], sigma=0.5, start=[2.0], G2=8.0)
    best = theory.best_step(2.0, 1.0, 8.0, 25)
    line, chain = theory.chain()["best step"], theory.chain()
    assert abs(line.slack(theory.run(problem, best, 25))) < 1e-14
    for factor in (0.5, 0.9, 1.1, 2.0):
        state = theory.run(problem, factor * best, 25)
        assert line.slack(state) > 1e-4
        assert chain["fixed step, G^2"].right(state) > chain["fixed step, G^2"].right(theory.run(problem, best, 25))


def test_a_mini_batch_divides_the_claimed_variance():
    X, y = problems.digits(30)
    for replacement, factor in ((True, 1 / 5), (False, 25 / (5 * 29))):
        problem = problems.logistic(X, y, batch=5, replacement=replacement)
        state = theory.run(problem, 1.0, 3, paths=30)
        assert state.sigma2 == pytest.approx(problem.sigma2 * factor)
        row = theory.chain()["mini-batch variance"]
        assert row.left(state) == pytest.approx(row.right(state), rel=1e-12) and row.left(state) > 0
        assert theory.chain()["mini-batch"].right(state) == pytest.approx(
            2 * state.gap / 3 + problem.L * problem.sigma2 * factor)
    single = problems.quadratic([1.0], sigma=1.0)
    assert theory.run(single.batched(4), 0.5, 3).sigma2 == 0.25
    assert _status(theory.run(single, 0.5, 3))["mini-batch"] == "not stated"


def test_lines_that_need_a_fixed_step_or_a_claim_say_so():
    rows = {row.line.name: row for row in theory.chain().table(theory.run(problems.quadratic([1.0]), [0.5, 0.4]))}
    assert rows["fixed step, G^2"].status == "not stated" and "steps of this run change" in rows["fixed step, G^2"].note
    assert rows["diminishing steps"].status == "holds"
    bare = theory.Problem(lambda w: w @ w / 2, lambda w: w, None, [1.0], L=1.0)
    status = _status(theory.run(bare, 0.5, 4))
    assert {name for name, s in status.items() if s == "not stated"} == {
        "bounded variance", "fixed step, sigma^2", "diminishing steps", "mini-batch variance", "mini-batch",
        "moment limits", "Bottou-Curtis-Nocedal 4.8", "Ghadimi-Lan 2.1(a)"}


# Runs and the protocol ------------------------------------------------------------------------------------------------

def test_an_oracle_may_be_a_list_of_outcomes_of_the_readers_own():
    def outcomes(w):
        return np.array([w + 1, w - 1, w]), np.array([0.25, 0.25, 0.5])

    problem = theory.Problem(lambda w: w @ w / 2, lambda w: w, oracles.Outcomes(outcomes), [2.0], L=1.0, sigma2=0.5)
    short, long = theory.run(problem, 0.5, 4), theory.run(problem, 0.5, 40)
    assert short.expectations == "enumerated, 81 paths"
    assert long.expectations == "sampled, 200 paths" and long.pooled is None
    assert theory.chain().check(short) is None and theory.chain().check(long) is None
    assert short.totals.value[1, 0] == pytest.approx(0.25 * 0.5**2 / 2 + 0.25 * 1.5**2 / 2 + 0.5 * 1.0**2 / 2)


@pytest.mark.parametrize("make", [
    lambda gradient: oracles.Additive(gradient, 0.3), lambda gradient: oracles.CoinFlips(gradient, 0.3),
    lambda gradient: oracles.MiniBatch(oracles.Additive(gradient, 0.3), 4), lambda gradient: oracles.Exact(gradient),
    lambda gradient: oracles.Biased(oracles.CoinFlips(gradient, 0.3), 0.5, [0.1, 0.0]),
    lambda gradient: oracles.FiniteSum(lambda w: gradient(w)[..., None, :] + np.eye(2)[:, ::-1] - 0.5, 2, 1)])
@pytest.mark.parametrize("steps", [3, 12])
def test_the_oracles_take_a_gradient_of_one_point_as_well_as_one_of_many(make, steps):
    A = np.array([[1.0, 0.2], [0.2, 0.5]])
    one = theory.Problem(lambda w: w @ A @ w / 2, lambda w: A @ w, make(lambda w: A @ w), [1.0, -2.0], L=1.1,
                         sigma2=1.0)
    many = one.claim(value=lambda w: np.einsum("...i,ij,...j->...", w, A, w) / 2, gradient=lambda w: w @ A,
                     oracle=make(lambda w: w @ A), vectorized=True)
    slow, fast = theory.run(one, 0.3, steps, paths=30), theory.run(many, 0.3, steps, paths=30)
    assert slow.expectations == fast.expectations
    exact = slow.visits[0], fast.visits[0]
    for name in ("value", "squared", "inner", "second", "variance"):
        assert np.allclose(*(getattr(visit, name) for visit in exact)), name
    if slow.exact:
        assert np.allclose(slow.totals.value, fast.totals.value)


def test_a_run_that_diverges_is_cut_where_the_numbers_end():
    state = theory.run(problems.quadratic([1.0], start=[1.0]), 1e80, 9)
    assert 0 < len(state.alphas) < 9 and "left the finite numbers" in state.stopped
    assert theory.chain().check(state).assumption.name == "step at most 1/L"


@pytest.mark.parametrize(("arguments", "message"), [
    ({"step": -1.0, "steps": 3}, "step must be positive"), ({"step": [0.1, 0.2], "steps": 3}, "step must be positive"),
    ({"step": 0.1, "steps": 3, "paths": 5}, "30 at least")])
def test_runs_refuse_what_they_cannot_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        theory.run(problems.quadratic([1.0]), **arguments)


def test_problems_refuse_wrong_shapes_and_claims():
    with pytest.raises(ValueError, match="claimed L is -1"):
        problems.quadratic([1.0], L=-1)
    bad = theory.Problem(lambda w: w @ w, lambda w: np.ones(3), None, [1.0, 2.0], L=2.0)
    with pytest.raises(ValueError, match=r"gradient\(w\) has shape \[3\]; \[2\] is needed"):
        theory.run(bad, 0.1, 2)
    bad = theory.Problem(lambda w: w @ w, lambda w: 2 * w, lambda w, rng: np.ones(3), [1.0, 2.0], L=2.0)
    with pytest.raises(ValueError, match=r"oracle gives a gradient of shape \[3\]; \[2\] is needed"):
        theory.run(bad, 0.1, 2)
    with pytest.raises(ValueError, match="the labels must be -1 and 1"):
        problems.logistic(np.eye(2), [0, 1])
    for make in (oracles.student_t, oracles.pareto):
        with pytest.raises(ValueError, match="no mean"):
            make(1.0)
    with pytest.raises(ValueError, match="out of 3 samples cannot be drawn without"):
        oracles.FiniteSum(lambda w: w, 3, 4, replacement=False)


def test_a_chain_refuses_a_line_that_follows_from_a_later_one():
    line = theory.Inequality("a", "a", theory.plain(lambda s: 0, lambda s: 1), previous="b")
    with pytest.raises(ValueError, match="'a' follows from 'b', which does not stand before it"):
        theory.Chain([line])
    with pytest.raises(ValueError, match="two lines are called 'a'"):
        theory.Chain([theory.Inequality("a", "a", line.sides)] * 2)


def test_a_chain_of_the_readers_own_on_a_plain_state():
    assumption = theory.Assumption("x is small", "x<1", lambda x: theory.Finding(x >= 1, f"x is {x}"))
    sides = theory.plain(lambda x: x * x, lambda x: x)
    chain = theory.Chain([theory.Inequality("square", "x^2<=x", sides, (assumption,))])
    assert chain.check(0.5) is None and chain["square"].slack(0.5) == 0.25
    failure = chain.check(3.0)
    assert (failure.line.name, failure.assumption.name, failure.step) == ("square", "x is small", 1)
    assert "slack -6" in str(failure) and '"x is small": x is 3.0' in str(failure)


# Margins --------------------------------------------------------------------------------------------------------------

def test_betting_refutes_a_false_claim_and_leaves_a_true_one_whatever_the_tail():
    rng = np.random.default_rng(0)
    for _ in range(200):
        draws = rng.pareto(1.1, 2000) / 10  # mean 1 / (0.1 * 10) = 1, infinite variance
        assert not margins.refuted(margins.log_wealth(draws))
    assert margins.refuted(margins.log_wealth(rng.exponential(1.15, 20_000)))
    assert margins.refuted(margins.log_wealth(np.abs(rng.standard_t(1.5, 5000)) ** 2 / 3))


def test_wealth_is_the_product_of_the_bets():
    ratios = np.array([0.5, 2.0, 1.5])
    assert np.allclose(np.exp(margins.log_wealth(ratios)), [np.prod(1 + b * (ratios - 1)) for b in margins.BETS])


def test_tail_index_is_that_of_a_pareto():
    rng = np.random.default_rng(1)
    assert margins.tail_index(1 + rng.pareto(1.5, 100_000)) == pytest.approx(1.5, rel=0.1)
    assert math.isnan(margins.tail_index(rng.random(10)))
    assert margins.tail_index(np.ones(2000)) == math.inf


def test_a_value_that_python_cannot_compute_ends_the_run_or_the_search_and_not_the_check():
    problem = theory.Problem(lambda w: math.exp(w[0]) - math.log(w[0]), lambda w: np.array([math.exp(w[0]) - 1 / w[0]]),
                             None, [0.5], L=8.0, f_star=2.0)
    assert theory.chain().check(theory.run(problem, 0.1, 10)) is None
    state = theory.run(problem, 1.0, 10)
    assert "left the finite numbers" in state.stopped
    with pytest.raises(ValueError, match="mismatch"):
        theory.run(theory.Problem(lambda w: np.ones((2, 2)) @ w @ np.ones(3), lambda w: w, None, [1.0, 1.0], L=1.0),
                   0.1, 2)


def test_claims_of_six_digits_and_minima_found_numerically_are_not_called_wrong():
    problem = problems.quadratic([1 / 3, 1 / 3], sigma=1 / 3, start=[1.0, 2.0])
    rounded = problem.claim(L=0.3333333, sigma2=0.1111111, f_star=1e-9)
    evaluation = theory.chain().evaluate(theory.run(rounded, 1 / 0.3333333, 20))
    assert evaluation.failure() is None and {row.status for row in evaluation.rows()} == {"holds", "not stated"}
    for claims, line in ((dict(L=0.33333), "descent lemma"), (dict(sigma2=0.1111), "bounded variance")):
        assert theory.chain().check(theory.run(problem.claim(**claims), 1.0, 20)).line.name == line


def test_values_in_float32_need_a_larger_rounding():
    def value(w):
        return float(np.float32(0.5) * np.sum(np.float32(w) ** 2, dtype=np.float32) + np.float32(3))

    problem = theory.Problem(value, lambda w: np.float32(w), None, [1.0, 2.0], L=1.0, sigma2=0.0, f_star=3.0)
    assert theory.chain().check(theory.run(problem, 0.9, 20)) is not None
    assert {row.status for row in theory.chain().table(theory.run(problem, 0.9, 20, rounding=1e-5))} == {"holds",
                                                                                                         "not stated"}
