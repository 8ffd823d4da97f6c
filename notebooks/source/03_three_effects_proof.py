# %% [markdown]
# # The three effects: a proof, checked line by line
#
# Why does the speed of stochastic gradient descent (SGD) depend on the curvature of the loss, on the size of the
# stochastic gradient and on its noise? This notebook proves it. You need calculus and expectations, and nothing about
# optimization. Each line is checked by machine where it is proved, on problems where both of its sides are known. Then
# the assumptions are broken one by one, to see which line falls.
#
# **You will be able to**
# 1. derive what one step of SGD gains from the descent lemma (section 2, exercise 3.1);
# 2. split the second moment of a stochastic gradient into signal and noise (section 4, exercise 3.2);
# 3. compute the best permitted step, and what a mini-batch does to the noise (section 5, exercises 3.3 and 3.4);
# 4. say which assumption stands behind which line, and what the theorem does *not* say (sections 6 and 7, exercise
#    3.5).
#
# **Time:** about 35 minutes without the exercises: the words at 150 a minute, the proofs at half that speed. The cells
# take less than a minute of it.
#
# Every claim carries one of four labels: **proved** (here), **measured** (here), **reported** (in a cited source),
# **folklore**.

# %%
# Set-up, the same in every notebook. It can be run again at any time.
import os
import sys
from pathlib import Path

if "google.colab" in sys.modules:  # Colab has PyTorch and all the rest; nothing of it is touched
    here = Path.cwd()
    copies = [p for p in (here, here.parent, *here.glob("*/")) if (p / "cbn_lab").is_dir()]
    if not copies:
        raise FileNotFoundError(
            "put a copy of this repository into the session first: upload it, or use git clone")
    if str(copies[0]) not in sys.path:
        sys.path.insert(0, str(copies[0]))
    os.chdir(copies[0] / "notebooks")  # ../results and ../data are found from there

# %%
import numpy as np
import sympy
from IPython.display import Markdown, display

from cbn_lab import theory
from cbn_lab.exercises import exercise
from cbn_lab.figures import Table
from cbn_lab.theory import algebra, meter, oracles, problems
from cbn_lab.widgets import slack

chain = theory.chain()

# %% [markdown]
# ## Notation
#
# | symbol | meaning |
# |---|---|
# | $w \in \mathbb R^d$ | all weights; $w_0$ is the start, $w_k$ what SGD has reached after $k$ steps |
# | $F(w)$ | the loss to be made small; $F^*$ a number with $F \ge F^*$ everywhere |
# | $\nabla F(w)$ | its gradient |
# | $g_k$ | the stochastic gradient that SGD uses at $w_k$, for instance that of a mini-batch |
# | $\alpha$, $K$ | step size; number of steps. One step is $w_{k+1} = w_k - \alpha g_k$ |
# | $L$ | Lipschitz constant of the gradient (section 2) |
# | $\mathbb E$, $\mathbb E[\,\cdot\mid w]$ | mean over all that is random; over the next $g$ only, at a given $w$ |
# | $g$ without an index | drawn at one given $w$; there $\mathbb E$ is short for $\mathbb E[\,\cdot\mid w]$ |
# | $\mathrm{Var}[g]$ | $\mathbb E\|g-\mathbb E g\|^2$, one number: the sum of the variances of the coordinates |
# | $\sigma^2$, $G^2$ | upper bounds of $\mathrm{Var}[g]$ and of $\mathbb E\|g\|^2$, the *second moment* of $g$ |
# | $\Delta$ | $F(w_0)-F^*$: how far there is to go |
#
# ## 1. What is to be proved
#
# **Intuition.** Stand on a hillside in fog and take a step of length $\alpha\|g\|$. Two things can spoil the step. The
# direction may be wrong, because $g$ is only an estimate of the slope. And the slope may change while you walk,
# because the ground is curved. The longer the step, the worse both get. So how much one step gains depends on three
# things: how fast the slope changes, how long the step is, and how noisy its direction is.
#
# **The three effects**, as Peng, Yu and Yu (2024) name them (*reported*, from their abstract), belong to these: a
# smaller *Lipschitz constant of the gradient*, $L$; a smaller *expected squared norm of the stochastic gradient*,
# $\mathbb E\|g\|^2$; a smaller *variance of the stochastic gradient*, $\mathrm{Var}[g]$. Only their abstract was known
# to us. The proof below is the standard one for SGD, as in Bottou, Curtis and Nocedal (2018). All three stand in two
# lines:
#
# $$\mathbb E[F(w_{k+1})] - \mathbb E[F(w_k)] \;\le\; -\alpha\,\mathbb E\|\nabla F(w_k)\|^2 +
# \tfrac12\alpha^2\, L\;\mathbb E\|g_k\|^2, \qquad
# \mathbb E\|g\|^2 = \|\nabla F\|^2 + \mathrm{Var}[g].$$
#
# The first term is the gain, the second the price. Sections 2 to 4 prove these lines, section 5 adds them up over $K$
# steps. Every line of the proof is an object of this library. It has a left side, a right side, a *slack* (right minus
# left) and the assumptions it needs. So each line can be checked on real runs as soon as it is proved. The next cell
# makes three runs and defines `check`, which shows both sides and the slack of a line on each of them, at the last
# step, and says whether the line holds at *every* step. Lines about single points are shown at the worst point that
# was visited.
#
# The first run is logistic regression on six real images, threes against eights. Two images make a mini-batch. There
# are 15 mini-batches, so after three steps SGD may be in $15^3$ places. All of them are computed, each with its
# probability, and *expectation* means what the definition says. The second run is a quadratic, for which the
# expectations have a closed form. The third is $\sum_i\log(1+w_i^2/2)$, which is not convex. There 200 paths are
# drawn. Where chance enters a mean over them, a margin stands behind it (±, seven standard errors). On that run *one
# step* and *telescoping* carry a term that is 0 in expectation, $\alpha(\nabla F^\top g-\|\nabla F\|^2)$ of the drawn
# $g$. With it they hold on every path, and nothing is left to chance.

# %%
X, y = problems.digits(6)
digits = problems.logistic(X, y, batch=2, replacement=False)
bowl = problems.quadratic([1.0, 0.3, 0.1], sigma=0.5)
wavy = problems.log_sum(2, sigma=0.5)
runs = {
    "6 digits, all 15 mini-batches": theory.run(digits, step=0.5 / digits.L, steps=3),
    "quadratic, Gaussian noise": theory.run(bowl, step=0.5, steps=40),
    "not convex, Gaussian noise": theory.run(wavy, step=0.5, steps=40),
}
evaluated = {name: chain.evaluate(state) for name, state in runs.items()}


def check(*names):
    """The statements of some lines, and for each a table with both sides on every run that it is stated for."""
    for name in names:
        display(Markdown(f"**{name}**: $\\displaystyle {chain[name].latex}$"))
        rows = [("run", "left side", "right side", "slack", "at every step")]
        for run, evaluation in evaluated.items():
            row = next(row for row in evaluation.rows() if row.line.name == name)
            gap = "0" if abs(row.slack) < 1e-9 else f"{row.slack:.3g}"
            if row.status != "not stated":
                left = f"{row.left:.5g}" + (f" ± {row.margin:.1g}" if row.margin else "")
                rows.append((run, left, f"{row.right:.5g}", gap, row.status))
        display(Table(rows))

# %% [markdown]
# ## 2. The descent lemma: where $L$ enters
#
# **Assumption.** $F$ is *$L$-smooth*: $\|\nabla F(x)-\nabla F(y)\|\le L\|x-y\|$ for all $x$, $y$. The slope changes at
# most $L$ times as fast as you walk. Where there are second derivatives, $L$ bounds the size of every eigenvalue of
# the Hessian, the matrix of second derivatives.
#
# **Statement (proved).** For $L$-smooth $F$ and all $w$, $y$: $F(y)\le F(w)+\nabla F(w)^\top(y-w)+\tfrac L2\|y-w\|^2$.
# In words: the tangent plane, plus a parabola of curvature $L$, lies above $F$.
#
# **Proof.** Write $v=y-w$. Walk from $w$ to $y$ along $w+tv$, $0\le t\le 1$.
#
# 1. By the chain rule the slope of $F$ along the way is $\nabla F(w+tv)^\top v$. The change of $F$ is its integral:
#    $F(y)-F(w)=\int_0^1\nabla F(w+tv)^\top v\,dt$.
# 2. Subtract the slope at the start: $F(y)-F(w)-\nabla F(w)^\top v=\int_0^1\big(\nabla F(w+tv)-\nabla F(w)\big)^\top
#    v\,dt$.
# 3. By Cauchy-Schwarz ($|a^\top b|\le\|a\|\,\|b\|$) and the assumption, the size of the integrand is at most
#    $\|\nabla F(w+tv)-\nabla F(w)\|\,\|v\|\le L\|tv\|\,\|v\|=Lt\|v\|^2$.
# 4. $\int_0^1 t\,dt=\tfrac12$, so the integral in 2 is at most $\tfrac L2\|v\|^2$. $\square$
#
# **Check** of steps 1, 3 and 4 (step 2 only subtracts), on the function that is not convex, between two points drawn
# at random. First its $L$, which is 1: the second derivative of $\log(1+x^2/2)$ lies between $-1/8$ and 1.

# %%
x = sympy.Symbol("x", real=True)
curvature = sympy.simplify(sympy.diff(sympy.log(1 + x**2 / 2), x, 2))
turning = sympy.solve(sympy.diff(curvature, x), x)
values = {str(point): str(curvature.subs(x, point)) for point in turning}
print("second derivative:", curvature)
print("its values where its own slope is 0:", values, "; far out:", sympy.limit(curvature, x, sympy.oo))

rng = np.random.default_rng(0)
w, v = 3 * rng.standard_normal((2, 2))
t = (np.arange(4000) + 0.5) / 4000  # midpoints of 4000 equal parts of [0, 1]
slopes = wavy.gradient(w + t[:, None] * v)
change = slopes - wavy.gradient(w)
print(f"1. change of F {wavy.value(w + v) - wavy.value(w):.6f}, integral {np.mean(slopes @ v):.6f}")
below = np.abs(change @ v) <= wavy.L * t * (v @ v)
print(f"3. size of the integrand at most L t |v|^2 at {below.sum()} of {len(t)} points")
s = sympy.Symbol("t")
print(f"4. integral of t from 0 to 1: {sympy.integrate(s, (s, 0, 1))}")

# %% [markdown]
# **Exercise 3.1** Put in the step of SGD, $y=w-\alpha g$, and write the right side as a function. Mind which of the
# two vectors, $\nabla F(w)$ and $g$, stands where.

# %%
ex = exercise("3.1")


def descent_bound(value, gradient, g, step, L):
    """The descent lemma's upper bound of F(w - step·g): value is F(w), gradient is ∇F(w); gradient and g are [d]."""
    raise NotImplementedError


ex.check(descent_bound)

# %% [markdown]
# `ex.hint()`, `ex.hint(2)` and so on help in steps; `ex.solution()` shows one way. Where an exercise is not solved,
# the course's own solution stands in, and says so. Now use the bound: at a fixed point, with a fixed noisy $g$, for
# steps of growing length. The bound is a parabola in the step.

# %%
bound = ex.use(descent_bound)
w = np.array([2.0, -1.0])
gradient = wavy.gradient(w)
g = gradient + np.array([0.3, 0.4])
rows = [("step", "F(w - step g)", "bound", "slack")]
for step in (0.1, 0.5, 1.0, 2.0, 4.0):
    actual, upper = wavy.value(w - step * g), bound(wavy.value(w), gradient, g, step, wavy.L)
    rows.append((step, f"{actual:.4f}", f"{upper:.4f}", f"{upper - actual:.4f}"))
display(Table(rows))
check("descent lemma")

# %% [markdown]
# In the first table the bound falls, as $F$ does, and then rises with the square of the step. Nothing random has
# happened yet: the line holds for each single step that any run takes (second table).
#
# **What you should now believe.** $L$ bounds what a step can lose to curvature (*proved*, for $L$-smooth $F$). It is a
# worst case over all places and directions. At most places a step loses less; the difference is the slack.
#
# ## 3. Taking expectations: where $\mathbb E\|g\|^2$ enters
#
# **Assumptions.** $g$ is *unbiased*: $\mathbb E[g\mid w]=\nabla F(w)$. And $\mathbb E\|g_k\|^2$ is finite at every
# step.
#
# **Statement (proved).** $\mathbb E F(w_{k+1})-\mathbb E F(w_k)\le-\alpha\,\mathbb E\|\nabla F(w_k)\|^2
# +\tfrac12\alpha^2L\,\mathbb E\|g_k\|^2$.
#
# **Proof.**
#
# 1. "Taking expectations". The descent lemma with $y=w_k-\alpha g_k$ is an inequality between random numbers.
#    Expectations keep the order, if they exist. They do: $w_k-w_0=-\alpha(g_0+\dots+g_{k-1})$ has a finite second
#    moment. So has $\nabla F(w_k)$, because $\|\nabla F(w_k)\|\le\|\nabla F(w_0)\|+L\|w_k-w_0\|$. Hence
#    $\nabla F(w_k)^\top g_k$ has a mean, by Cauchy-Schwarz. And $F(w_k)$ has one: step 3 of section 2 is about sizes,
#    so $F(w_k)$ is within $\tfrac L2\|w_k-w_0\|^2$ of the tangent plane at $w_0$.
# 2. "Unbiased gradient". Hold $w_k$ fixed for a moment. Then $\nabla F(w_k)$ is a constant vector, only $g_k$ is
#    random, and $\mathbb E[\nabla F(w_k)^\top g_k\mid w_k]=\nabla F(w_k)^\top\,\mathbb E[g_k\mid
#    w_k]=\|\nabla F(w_k)\|^2$. This is where unbiasedness is used, and it is used nowhere else in this section.
# 3. "One step". Average over $w_k$ as well (the mean of conditional means is the mean), and put 2 into 1. $\square$
#
# **Check.** The three lines, by name:

# %%
check("taking expectations", "unbiased gradient", "one step")

# %% [markdown]
# The gain is linear in $\alpha$, the price quadratic. So small steps always gain while the gradient is not 0. How
# small is small enough is decided, for a given gradient, by the *product* $L\cdot\mathbb E\|g\|^2$: the first two
# effects enter together.
#
# **What you should now believe.** One step gains, on average, at least $\alpha\,\mathbb E\|\nabla F\|^2$ minus
# $\tfrac12\alpha^2L\,\mathbb E\|g\|^2$ (*proved*, for unbiased gradients). This is a bound: where the ground curves
# less than $L$, more is gained than it says.
#
# ## 4. The variance decomposition: where $\mathrm{Var}[g]$ enters
#
# **Statement (proved).** For every random vector with a finite second moment,
# $\mathbb E\|g\|^2=\|\mathbb E g\|^2 +\mathrm{Var}[g]$. If $g$ is unbiased, the first term is $\|\nabla F\|^2$.
#
# **Proof.** Write $g=m+\xi$ with $m=\mathbb E g$, so $\mathbb E\xi=0$. Then $\|g\|^2=\|m\|^2+2m^\top\xi+\|\xi\|^2$.
# Take the mean: the middle term is $2m^\top\mathbb E\xi=0$, the last is $\mathrm{Var}[g]$ by definition. $\square$
#
# **Exercise 3.2** Compute the three numbers for a gradient with known outcomes, each from its own definition.

# %%
ex = exercise("3.2")


def decompose(gradients, probabilities):
    """(E|g|², |E g|², Var[g]) of a random gradient: row i of `gradients` [m, d] has probability `probabilities[i]`."""
    raise NotImplementedError


ex.check(decompose)

# %% [markdown]
# The 15 mini-batches of two out of six digits are such outcomes; `oracle` is the library's word for whatever hands out
# $g$. First a **check by algebra**: SymPy expands both sides for three outcomes in two dimensions, with any values and
# probabilities. Then the three numbers at the start and after 200 exact gradient steps, and the line of the proof:

# %%
display(Table([("identity", "proved for", "left - right"),
       *((i.name, i.scope, str(i.residual)) for i in algebra.second_moments())]))
three = ex.use(decompose)
w, rows = np.zeros(65), [("point", "E‖g‖²", "‖E g‖²", "Var[g]", "share of Var")]
for name, steps in (("start", 0), ("after 200 steps", 200)):
    for _ in range(steps):
        w = w - digits.gradient(w) / digits.L
    second, squared, variance = three(*digits.oracle.outcomes(w))
    rows.append((name, *(f"{z:.5f}" for z in (second, squared, variance)), f"{variance / second:.0%}"))
display(Table(rows))
display(Markdown(f"The noise is {rows[1][-1]} of $\\mathbb E\\|g\\|^2$ at the start and {rows[2][-1]} at the end."))
check("decomposition")

# %% [markdown]
# Here both parts shrink: a plane separates the six images, so in the end every per-sample gradient is small. Noise
# that is added from outside, as in the other two runs, stays while the gradient shrinks.
#
# Put the decomposition into the one-step line:
# $-\alpha\|\nabla F\|^2+\tfrac12\alpha^2L\big(\|\nabla F\|^2+\mathrm{Var}[g]\big)$. All three effects are in it. They
# are **not independent**: $\mathrm{Var}[g]$ is a part of $\mathbb E\|g\|^2$, and so is the gradient itself. Making
# $\mathbb E\|g\|^2$ small by making $\nabla F$ small is no gain: the first term, what the step earns, shrinks as well.
# Section 7 comes back to this.
#
# **What you should now believe.** The decomposition is an identity (*proved*; a case of it expanded by SymPy). The
# variance is the part of $\mathbb E\|g\|^2$ that buys nothing.
#
# ## 5. From one step to many
#
# ### The bound in $G^2$
#
# **Assumptions.** In addition: $F\ge F^*$, and $\mathbb E\|g_k\|^2\le G^2$ along the run.
#
# **Statement (proved).** With a fixed step $\alpha$,
# $\frac1K\sum_{k<K}\mathbb E\|\nabla F(w_k)\|^2\le\frac{\Delta}{K\alpha}+\tfrac12\alpha LG^2$.
#
# **Proof.**
#
# 1. Write the one-step line for $k=0,\dots,K-1$ and add. On the left,
#    $\mathbb E F(w_1)-F(w_0)+\mathbb E F(w_2)-\mathbb E F(w_1)+\dots$ *telescopes*: all values but the first and the
#    last cancel. Bring the gradients to the left, with the factors $\alpha$: that is "telescoping".
# 2. $F(w_0)-\mathbb E F(w_K)\le F(w_0)-F^*=\Delta$, by "lower bound".
# 3. Replace each $\mathbb E\|g_k\|^2$ by $G^2$ ("bounded second moment") and divide by $K\alpha$. $\square$ (For the
#    two problems where no $G$ is known beforehand, $G^2$ is the largest $\mathbb E\|g_k\|^2$ of the run.)
#
# The mean of $\|\nabla F\|^2$ is small only if some of the gradients are. So, on average, SGD reaches places where the
# ground is nearly flat. They need not be minima.
#
# ### The best step
#
# The first term falls with $\alpha$, the second rises. **Statement (proved).** For given $\Delta$, $L$, $G^2$ and $K$,
# no step makes the right side smaller than $\sqrt{2\Delta LG^2/K}$, and $\alpha=\sqrt{2\Delta/(LG^2K)}$ reaches it.
# **Proof.** For $a,b>0$, $a+b=2\sqrt{ab}+(\sqrt a-\sqrt b)^2$. Take $a=\Delta/(K\alpha)$ and $b=\tfrac12\alpha LG^2$:
# the product $ab$ does not contain $\alpha$, and the square is 0 where $a=b$. $\square$ The check: SymPy on each part
# of this argument, then the lines of the bound in $G^2$ in their order.

# %%
display(Table([("identity", "left - right"), *((i.name, str(i.residual)) for i in algebra.best_step())]))
check("telescoping", "lower bound", "bounded second moment", "fixed step, G^2", "best step")

# %% [markdown]
# ### The bound in $L$ and $\sigma^2$
#
# $G^2$ contains the gradients, which are large at the start. The third effect shows better in a second version.
#
# **Assumptions.** $\mathrm{Var}[g\mid w]\le\sigma^2$, and a step $\alpha\le 1/L$. No $G$ is needed.
#
# **Statement (proved).** $\frac1K\sum_{k<K}\mathbb E\|\nabla F(w_k)\|^2\le\frac{2\Delta}{K\alpha}+\alpha L\sigma^2$.
#
# **Proof.**
#
# 1. $\mathbb E\|g\|^2\le\|\nabla F\|^2+\sigma^2$ by the decomposition: "bounded variance".
# 2. So one step changes $F$ by at most $-\alpha\big(1-\tfrac{\alpha L}2\big)\mathbb E\|\nabla F\|^2
#    +\tfrac12\alpha^2L\sigma^2$ in expectation. Since $\alpha L\le 1$, the bracket is at least $\tfrac12$: "absorbing
#    the step". The part of the price that comes from the gradient itself is paid out of the gain.
# 3. Sum, telescope, use $F^*$, and divide by $K\alpha/2$. $\square$
#
# ### Diminishing steps
#
# With a fixed step the second term never goes away. **Statement (proved).** For steps $\alpha_k\le 1/L$ that may
# change, with weights $\alpha_k$:
# $\sum_k\alpha_k\mathbb E\|\nabla F(w_k)\|^2\big/\sum_k\alpha_k
# \le\big(2\Delta+L\sigma^2\sum_k\alpha_k^2\big)\big/ \sum_k\alpha_k$.
# **Proof.** Steps 1 and 2 above hold at each $k$ with its own $\alpha_k$. Sum, telescope, and divide by
# $\tfrac12\sum_k\alpha_k$. $\square$ If $\sum\alpha_k=\infty$ and $\sum\alpha_k^2<\infty$, the right side goes to 0.
#
# **Check** of the lines about $\sigma^2$, and of the diminishing steps on the quadratic:

# %%
alpha, L = sympy.symbols("alpha L", positive=True)
absorbed = sympy.factor(alpha * (1 - alpha * L / 2) - alpha / 2)
print("slack of 'absorbing' / E|grad F|^2, at least 0 up to step 1/L:", absorbed)
check("bounded variance", "absorbing the step", "fixed step, sigma^2")
rows = [("steps", "fixed 0.5: weighted mean", "bound", "0.5/√(k+1): weighted mean", "bound")]
for K in (10, 100, 1000):
    cells = []
    for alphas in (np.full(K, 0.5), 0.5 / np.sqrt(1 + np.arange(K))):
        sides = chain["diminishing steps"].sides(theory.run(bowl, alphas, paths=30))
        cells += [f"{sides.left:.4f}", f"{sides.right:.4f}"]
    rows.append((K, *cells))
Table(rows)

# %% [markdown]
# With the fixed step the bound settles at $L\sigma^2\alpha$, with the falling steps it goes on falling. (For
# $\alpha_k=0.5/\sqrt{k+1}$ the sum of squares, $0.25\sum 1/(k+1)$, is not finite either. But it grows so slowly
# against $\sum 1/\sqrt{k+1}$ that the ratio goes to 0 all the same.)
#
# ### The best permitted step
#
# **Exercise 3.3** Back to the fixed step and its bound $\frac{2\Delta}{K\alpha}+\alpha L\sigma^2$. Which *permitted*
# step makes it smallest?

# %%
ex = exercise("3.3")


def best_step(gap, L, sigma2, steps):
    """The step in (0, 1/L] that makes 2·gap/(steps·α) + α·L·sigma2 smallest; sigma2 may be 0."""
    raise NotImplementedError


ex.check(best_step)

# %% [markdown]
# A run on the quadratic with that step, and with steps a quarter and twice as long:

# %%
best = ex.use(best_step)
start, K, rows = runs["quadratic, Gaussian noise"], 40, [("step", "bound", "measured (exact)")]
chosen = float(best(start.gap, bowl.L, bowl.sigma2, K))
for factor in (0.25, 1, 2):
    state = theory.run(bowl, factor * chosen, K)
    sides = chain["fixed step, sigma^2"].sides(state)
    rows.append((f"{factor * chosen:.4f}", f"{sides.right:.4f}", f"{sides.left:.4f}"))
display(Table(rows))
grid = chosen * np.geomspace(0.25, 2, 61)
means = [theory.run(bowl, step, K, paths=30).totals.squared.mean() for step in grid]
display(Markdown(f"The bound is smallest at step {chosen:.3f}. Of {len(grid)} steps in this range, the measured mean "
                 f"is smallest at {grid[int(np.argmin(means))]:.3f}."))

# %% [markdown]
# What is best for the bound need not be best for the run.
#
# ### Mini-batches
#
# **Assumption.** $F$ is the mean of $n\ge2$ losses, one per sample, so $\nabla F$ is the mean of $n$ *per-sample
# gradients*. $g_{\mathcal B}$ is the mean of $b$ of them, drawn uniformly. $\sigma_1^2(w)$ is the variance of one.
#
# **Statement (proved).** With replacement, $\mathrm{Var}[g_{\mathcal B}]=\sigma_1^2(w)/b$. Without replacement it is
# smaller, by a factor that depends on $n$ and $b$ alone and is below 1 from $b=2$ on.
#
# **Proof.** Write $\xi_i$ for the $i$-th draw minus $\nabla F$. The variance of the sum is
# $\sum_i\mathbb E\|\xi_i\|^2 +\sum_{i\ne j}\mathbb E[\xi_i^\top\xi_j]$. With replacement the draws are independent,
# and the second sum is 0. Without, two draws are any two different samples, all pairs being equally likely. So all
# $b(b-1)$ terms have the same value $c$, and $c$ does not depend on $b$. To find it, take $b=n$: then the sum contains
# every sample and does not vary, so $0=n\sigma_1^2+n(n-1)c$. Hence $c=-\sigma_1^2/(n-1)$. Put it in and divide by
# $b^2$. $\square$
#
# **Exercise 3.4** Do the last step: write the factor $\mathrm{Var}[g_{\mathcal B}]/\sigma_1^2$ for both ways of
# drawing.

# %%
ex = exercise("3.4")


def batch_factor(n, b, replacement):
    """Var of a mean over b of n samples, divided by that of one sample; drawn uniformly, replacement True or False."""
    raise NotImplementedError


ex.check(batch_factor)

# %% [markdown]
# **Check** against the sum over all mini-batches, six digits. (Those that differ only in the order of the draws are
# counted once, with their probability.)
#
# The bound in $\sigma^2$ with this variance is the line "mini-batch", and nothing more needs to be proved; $\sigma_1^2$
# without $w$ is a bound of $\sigma_1^2(w)$ for all $w$. With replacement the factor $(n-b)/(n-1)$ is 1. Four times the
# batch divides the second term by about four, as long as $b$ is small against $n$. It leaves the first one, the way to
# go, as it was. The last table has more digits, where all paths are too many: 60 images and 60 drawn paths. What is
# conditional on a point is exact.

# %%
factor = ex.use(batch_factor)
w, one = np.zeros(65), float(digits.oracle.single.moments(np.zeros(65))[1])
rows = [("b", "drawn", "mini-batches", "variance, all of them", "factor times that of one")]
for b in (1, 2, 3, 6):
    for replacement in (True, False):
        oracle = problems.logistic(X, y, batch=b, replacement=replacement).oracle
        batches, variance = len(oracle.batches[1]), float(oracle.moments(w)[1])
        formula = factor(6, b, replacement) * one
        rows.append((b, "with" if replacement else "without", batches, f"{variance:.6f}", f"{formula:.6f}"))
display(Table(rows))
check("mini-batch variance", "mini-batch")

X60, y60 = problems.digits(60)
rows = [("batch size", "mean ‖∇F‖² (60 paths)", "margin", "bound", "every line holds")]
for b in (1, 4, 16):
    problem = problems.logistic(X60, y60, batch=b, replacement=False)
    state = theory.run(problem, 0.5 / problem.L, 25, paths=60)
    sides = chain["mini-batch"].sides(state)
    rows.append((b, f"{sides.left:.4f}", f"±{sides.margin:.4f}", f"{sides.right:.3f}", chain.check(state) is None))
Table(rows)

# %% [markdown]
# The bounds are many times larger than what is measured. Part of it is the claim for $\sigma^2$. A per-sample gradient
# of logistic regression is $x_i$ times a number between $-1$ and 1. So $\mathrm{mean}\|x_i\|^2$ bounds the variance at
# every $w$, and that is what is claimed.
#
# ### As it stands in the literature
#
# Two theorems say the same with other assumptions. The library checks each against its own. Both count the steps from
# 1: their $w_1$ is our $w_0$.
#
# **Bottou, Curtis and Nocedal (2018), Theorem 4.8.** Besides a lower bound, $F_{\inf}$, their Assumption 4.3 asks for
# less than ours. It allows a bias: $\nabla F^\top\mathbb E g\ge\mu\|\nabla F\|^2$ and
# $\|\mathbb E g\|\le\mu_G\|\nabla F\|$ with $\mu_G\ge\mu>0$. And it allows a variance that grows:
# $\mathrm{Var}[g]\le M+M_V\|\nabla F\|^2$. **Statement (reported, and proved here).** With $M_G=M_V+\mu_G^2$ and a
# fixed step $0<\alpha\le\mu/(LM_G)$:
# $\frac1K\sum_k\mathbb E\|\nabla F(w_k)\|^2\le\frac{\alpha LM}\mu+\frac{2\Delta}{K\mu\alpha}$. **Proof.** The
# decomposition gives $\mathbb E\|g\|^2\le M+M_G\|\nabla F\|^2$: "moment limits". The expected change of $F$ is at most
# $-\alpha\mu\|\nabla F\|^2+\tfrac12\alpha^2L(M+M_G\|\nabla F\|^2)$. For $\alpha\le\mu/(LM_G)$ the term with $M_G$ is
# at most half of the gain. Sum, telescope, use the lower bound, and divide by $K\alpha\mu/2$. $\square$ (For
# $\mu=\mu_G=1$, $M=\sigma^2$, $M_V=0$ it is our bound.)
#
# **Ghadimi and Lan (2013), Theorem 2.1(a).** They assume what we do, take steps $0<\gamma_k<2/L$ (their letter for
# $\alpha_k$), and answer with a random iterate $w_R$: $R$ is drawn independently of the run, and $R=k$ has a
# probability proportional to $2\gamma_k-L\gamma_k^2$. **Statement (reported, and proved here).** With
# $D_F^2=2\Delta/L$:
# $\frac1L\mathbb E\|\nabla F(w_R)\|^2\le\big(D_F^2+\sigma^2\sum_k\gamma_k^2\big)\big/\sum_k(2\gamma_k-L\gamma_k^2)$.
# **Proof.** Put the decomposition into the one-step line:
# $\mathbb E F(w_{k+1})-\mathbb E F(w_k)\le-\tfrac12(2\gamma_k-L\gamma_k^2)\,\mathbb E\|\nabla F(w_k)\|^2
# +\tfrac12L\gamma_k^2\sigma^2$.
# Sum, telescope, use the lower bound, and divide by $\tfrac L2\sum_k(2\gamma_k-L\gamma_k^2)$, which is positive
# because $\gamma_k<2/L$. The weighted mean on the left is the expectation over $R$. $\square$ Nothing is absorbed, so
# the steps may come up to $2/L$ instead of $1/L$.
#
# **Check** of these lines, and then of every line of the chain on the three runs:

# %%
check("moment limits", "Bottou-Curtis-Nocedal 4.8", "Ghadimi-Lan 2.1(a)")
for name, evaluation in evaluated.items():
    status = [row.status for row in evaluation.rows()]
    print(f"{name}: {status.count('holds')} lines hold, {status.count('not stated')} are not stated for it, "
          f"{status.count('fails')} fail")

# %% [markdown]
# **What you should now believe.** For $L$-smooth $F$, unbiased gradients and a bounded variance, the mean squared
# gradient of SGD is at most a level $\alpha L\sigma^2$ plus a part $2\Delta/(K\alpha)$ that dies out with $K$
# (*proved*; every line *measured* on three problems). At the best step the bound in $G^2$ is proportional to
# $\sqrt{L\,G^2}$, for given $\Delta$ and $K$.
#
# ## 6. The slack meter, and where the proof stops
#
# The whole chain on one run, a quadratic with $L=1$. Each row is a line of the proof. Solid is its left side, dashed
# its right side, shaded the slack; the numbers belong to the last step, or to the first at which the line fails; in
# brackets the slack. ✓ means that the line holds, ≈ that it holds here although an assumption it needs is broken, ✗
# that it fails, – that it says nothing about this run.

# %%
display(slack.slack_meter(batch=2))
rows = {row.line.name: row for row in chain.table(meter.meter(batch=2))}
tight = [name for name, row in rows.items() if abs(row.slack) < 1e-9]
ratio, other = (rows[name].right / rows[name].left for name in ("fixed step, G^2", "fixed step, sigma^2"))
display(Markdown(f"Lines without any slack in this run: {', '.join(tight)}. In the bounds the right side is larger "
                 f"than the left by a factor of {ratio:.1f} (in $G^2$) and {other:.1f} (in $\\sigma^2$)."))

# %% [markdown]
# Now break one assumption at a time. **Exercise 3.5** Predict which line falls first, in the order of the meter's
# rows. The cell prints the things to break. The biased gradient is 0.7 times an unbiased one. A *heavy tail* is a noise
# that has a mean but no finite variance; $\sigma^2$ is claimed all the same. For *a kink* the problem is $F(w)=|w|$,
# without noise. Its slope jumps at 0.

# %%
ex = exercise("3.5")
print("; ".join(meter.BREAKS[1:]))


def first_failing(broken):
    """Name of the first line of the proof that fails; `broken` is what is broken, one of `meter.BREAKS`."""
    raise NotImplementedError


ex.check(first_failing)

# %% [markdown]
# Run them. The step is $0.5/L$ if nothing else is said, and every other claim is right. The chain finds the first line
# that fails, then checks the assumptions on the problem and the run, and says which is broken.
#
# The second output takes a closer look at the heavy tail: Student's $t$ with 1.5 degrees of freedom has a mean but no
# finite variance. Then $\mathbb E\|g\|^2=\infty$, and the one-step line reads "$\le\infty$": it cannot fail, and says
# nothing. Any claimed $\sigma^2$ is false. (Where an expectation over the run is shown as finite, it is the mean
# over 60 paths; after the first step the expectation itself is infinite.)

# %%
rows = [("what is broken", "first line that fails", "at step", "assumption behind it")]
for broken in meter.BREAKS:
    failure = chain.check(meter.meter(broken=broken))
    found = (failure.line.name, failure.step, failure.assumption.name) if failure else ("none", "-", "-")
    rows.append((broken, *found))
display(Table(rows))

display(slack.slack_meter(broken="heavy tail"))
evaluation = chain.evaluate(meter.meter(broken="heavy tail"))
lines = {row.line.name: row for row in evaluation.rows()}
empty = [name for name, row in lines.items() if row.right == np.inf]
sides = evaluation.along(chain["fixed step, sigma^2"])
above = 1 + max(step for step, side in enumerate(sides, start=1) if side.left <= side.right)
display(Markdown(f"Infinite on the right, so without content: {', '.join(empty)}. From step {above} on the mean over "
                 f"the paths is above the bound in $\\sigma^2$. At first that could be chance; as refuted it counts "
                 f"from step {lines['fixed step, sigma^2'].step} on."))

# %% [markdown]
# **When does chance count as failure?** A run cannot *show* that a variance is infinite. Here the noise is known, so
# it can be computed. Where numbers can only be sampled, the chain bets against the claim, for instance against
# $\sigma^2$. Each new number multiplies its stake by a factor whose mean is at most 1 if the claim is true. That the
# stake ever grows to $10^9$ times its start has then a probability of at most $10^{-9}$ (Ville's inequality of 1939,
# *reported*; it needs no assumption about the tail). When it does, the claim counts as refuted.
#
# Three more of these deserve a closer look.
#
# **A step above $2/L$.** The bound in $G^2$ has no condition on the step, and still holds: $G^2$ is then enormous.
# What breaks is the absorption. On the steepest axis of a quadratic each step multiplies the mean distance
# by $|1-\alpha L|>1$, and SGD runs away.
#
# **A kink.** $F(w)=|w|$ has slope $-1$ or $1$. Between two points on either side of 0 the slope changes by 2, however
# close they are: no $L$ is large enough. As long as SGD stays on one side nothing is wrong.
#
# **A bias.** Let $g$ be $0.7$ times an unbiased gradient; its variance is $0.7^2$ times as large. Descent still works,
# only slower, but the proof's line is gone. The theorem of Bottou, Curtis and Nocedal survives, with $\mu=\mu_G=0.7$:

# %%
state = meter.meter(broken="step above 2/L")
print(chain.check(state))
print(f"E F at the start {state.start_value:.3g}, after {len(state.alphas)} steps {state.totals.value[-1, 0]:.3g}")
status = {row.line.name: row.status for row in chain.table(state)}
print("bound in G^2:", status["fixed step, G^2"], "| bound in sigma^2:", status["fixed step, sigma^2"])

for start in (1.0, 3.0):
    state = theory.run(problems.kink(start=start, claimed_L=5.0), 0.15, 12)
    failure = chain.check(state)
    print(f"start {start}: last w {float(state.visits[-1].points[0, 0]):+.2f};", failure or "every line holds")

base = problems.quadratic([1.0, 0.3, 0.1], sigma=0.5)
biased = base.claim(oracle=oracles.Biased(base.oracle, scale=0.7), mu=0.7, mu_G=0.7, sigma2=0.7**2 * 0.25)
state = theory.run(biased, 0.5, 40)
print(chain.check(state))
print("from their assumptions alone:", theory.chain("Bottou-Curtis-Nocedal 4.8").check(state) or "every line holds")

# %% [markdown]
# Your own problem goes the same way. Hand in value, gradient, a noisy gradient and your claims. Below, the claims are
# right first, and then one of them is wrong: $L$, $\sigma^2$, $F^*$.
#
# Now the sliders. Predict before you move one: which line fails first, and does it fail in the first step or later?
# Try a claimed $L$ of 0.5, then of 2 with the step at 0.6. Try a batch of 32 with a tail of 3.

# %%
mine = theory.Problem(
    value=lambda w: np.sum(np.sqrt(1 + w**2)), gradient=lambda w: w / np.sqrt(1 + w**2),
    oracle=lambda w, rng: w / np.sqrt(1 + w**2) + 0.2 * rng.uniform(-1, 1, w.shape),
    start=[1.5, -2.0], L=1.0, sigma2=2 * 0.2**2 / 3, f_star=2.0)
for problem in (mine, mine.claim(L=0.7), mine.claim(sigma2=0.02), mine.claim(f_star=2.1)):
    print(chain.check(theory.run(problem, 0.5, 30)) or "every line holds")
slack.meter()

# %% [markdown]
# **What you should now believe.** Each assumption enters at lines that can be named, and breaking it shows there
# (*measured*, on the problems above). A line can hold although its assumption is broken: the assumption is about all
# places, the run has seen a few.
#
# ## 7. The three effects are not three knobs
#
# Below, the bounds and the exact mean squared gradient against the step. The sliders stand for the three effects: $L$,
# $\mathrm{Var}[g]=\sigma^2$, and $\mathbb E\|g\|^2$. The last one cannot be set freely. It is
# $\|\nabla F\|^2+\sigma^2$, so its slider sets the distance of the start from the minimum; and the slider of $L$, and
# that of $\sigma^2$, change it too.

# %%
display(slack.effects())
alphas = np.geomspace(0.01, 1, 41)
first = meter.effects(1.0, 0.25, 1.0, alphas)
below = int(np.sum(first["measured"] <= np.minimum(first["bound_G2"], first["bound_sigma2"])))
display(Markdown(f"As the sliders stand at first, the measured curve is below both bounds at {below} of "
                 f"{len(alphas)} steps up to $1/L$."))
rows = [("L", "σ²", "smallest bound in σ²", "at step", "measured there", "G² there")]
for L, sigma2 in ((1, 0.25), (0.5, 0.25), (1, 0.125), (0.5, 0.125)):
    found = meter.effects(L, sigma2, 1.0, alphas / L)
    i = int(np.argmin(np.where(found["valid"], found["bound_sigma2"], np.inf)))
    rows.append((L, sigma2, *(f"{found[key][i]:.3g}" for key in ("bound_sigma2", "alpha", "measured", "G2"))))
Table(rows)

# %% [markdown]
# Each halving lowers the bound. But halving $L$ here also halves $\Delta$ and the gradients, and $G^2$ falls as well:
# on a quadratic the effects come together.
#
# **They can be had for nothing, on paper (proved).** Measure the weights in other units, $w=u/a$, and train
# $\tilde F(u)=F(u/a)$. Then $\nabla\tilde F=\nabla F/a$, so $\mathbb E\|g\|^2$ and $\mathrm{Var}[g]$ are divided by
# $a^2$, and so is $L$. For $a>1$ these are all three effects. And a step $a^2\alpha$ takes $u=aw$ to
# $aw-a^2\alpha\,g/a=a(w-\alpha g)$: SGD visits *exactly the same* weights. So a statement like "method A has a smaller
# $L$" means little before the scale of the weights is fixed. Nets with normalization layers are full of such scales;
# notebook 04 measures with scale-free numbers for this reason.

# %%
a, rows = 10.0, [("problem", "L", "σ²", "mean ‖∇‖²", "E F at the end")]
plain = problems.quadratic([1.0, 0.3], sigma=0.5, start=[2.0, 2.0])
scaled = problems.quadratic([1.0 / a**2, 0.3 / a**2], sigma=0.5 / a, start=[2.0 * a, 2.0 * a])
for name, problem, step in (("as it is", plain, 0.3), ("weights times 10", scaled, 0.3 * a**2)):
    state = theory.run(problem, step, 40)
    means = float(state.totals.squared.mean()), float(state.totals.value[-1, 0])
    rows.append((name, f"{problem.L:.4g}", f"{problem.sigma2:.4g}", f"{means[0]:.6f}", f"{means[1]:.6f}"))
Table(rows)

# %% [markdown]
# **A better bound is not faster training.** The next three quadratics start with the same $\Delta$ and have the same
# noise. Their bounds differ by $L$ alone.

# %%
A = problems.quadratic([0.5, 0.5], sigma=0.1, start=[2.0, 0.0])
B = problems.quadratic([1.0, 0.02], sigma=0.1, start=[0.0, 10.0])
C = problems.quadratic([0.5, 0.02], sigma=0.1, start=[0.0, 10.0])
rows = [("problem", "L", "Δ", "bound", "mean ‖∇F‖²", "E F at the end")]
for name, problem in (("A, steep all round", A), ("B, starts in a flat valley", B), ("C, B with half the L", C)):
    state = theory.run(problem, 0.5, 40)
    sides = chain["fixed step, sigma^2"].sides(state)
    rows.append((name, problem.L, f"{state.gap:.3g}", f"{sides.right:.4f}", f"{sides.left:.4f}",
                 f"{state.totals.value[-1, 0]:.4f}"))
a, b, c = (dict(zip(rows[0], row, strict=True)) for row in rows[1:])
loss, mean = "E F at the end", "mean ‖∇F‖²"
display(Markdown(f"A and C have equal bounds, {a['bound']} and {c['bound']}. A ends at a loss of {a[loss]}, C at "
                 f"{c[loss]}. B has a larger bound than A, {b['bound']}, and its gradients were smaller all the same: "
                 f"{b[mean]} against {a[mean]}."))
Table(rows)

# %% [markdown]
# Look at the last two columns. The theorem is about gradients. In a flat valley gradients are small and the loss stays
# high.
#
# ### What the theorem does not say
#
# - **It gives upper bounds.** A smaller bound promises more; it does not train faster. Nor does a larger one train
#   slower.
# - **It is about one problem.** Two networks, with and without a norm, are two functions $F$ with
#   different $\Delta$, $L$, gradients and scales.
# - **It is about $\|\nabla F\|^2$,** not about the loss, and not about test accuracy.
# - **$L$ is a constant in it.** In a network the curvature changes along the path, and norm layers change it: where
#   weights feed one directly, its output does not depend on their scale, so the curvature falls as they grow. A single
#   $L$ for the whole space need not exist.
# - **The noise is as assumed.** With batch norm in train mode the mini-batch changes the function itself. Its gradient
#   estimates the gradient of an average over mini-batches, not of the loss in eval mode.
# - **ReLU has kinks.** A net with ReLU is not $L$-smooth for any $L$. The proof does not cover it as it stands.
#
# **What you should now believe.** The three effects are terms of one bound (*proved*). That a method has them, and
# that this is why it trains faster, are two further claims. Notebook 04 measures the first. The second needs an
# experiment that changes one of them and nothing else.
#
# ## Summary
#
# | claim | label |
# |---|---|
# | descent lemma, one step, decomposition, and the bounds in $G^2$ and in $\sigma^2$ | proved, here |
# | best step, diminishing steps, mini-batch factor | proved, here; the best step's algebra by SymPy as well |
# | Theorems 4.8 and 2.1(a) of the two papers | proved, here, in the form cited |
# | every line on digits, a quadratic, a non-convex function | measured, here, float64; exact expectations or a margin |
# | which line falls first when one assumption is broken | measured, here, on the problems of section 6 |
# | other units of the weights give all three effects and the same run | proved and measured, here |
# | a smaller $L$, $\mathbb E\lVert g\rVert^2$ or $\mathrm{Var}[g]$ lowers the bound, others held fixed | proved, here |
# | the three effects explain why batch normalization helps | reported (abstract of Peng, Yu and Yu); not proved here |
# | "a smoother loss trains faster" | folklore, in this generality; section 7 has counter-examples |
#
# ## Exercises
#
# 3.1 (the step of the descent lemma), 3.2 (the decomposition), 3.3 (the best permitted step), 3.4 (the mini-batch's
# factor) and 3.5 (which line falls first) stand where they belong, above. Without a checker, for a discussion:
#
# - Find settings of the slack meter at which "fixed step, sigma^2" holds although the step is above $1/L$. Why is that
#   no contradiction?
# - Keep $\mathbb E\|g\|^2$ fixed and exchange gradient for noise. Which of the two bounds notices?
# - Take your own `theory.Problem` with a claim that is wrong and that no line shows. What would a longer run show?
#
# ## Going further
#
# - Gradient clipping makes $g$ biased and its variance finite. Write it as an oracle and look at the meter.
# - Under the Polyak-Łojasiewicz inequality $\|\nabla F\|^2\ge 2c\,(F-F^*)$ the same one-step line gives a linear rate.
#   Prove it, and add your line to a `theory.Chain`.
# - The library's documentation of `theory.Problem` and `theory.oracles` says how to hand in mini-batches, known
#   outcomes or known moments, so that more becomes exact.
#
# ## References
#
# - L. Bottou, F. Curtis, J. Nocedal, *Optimization Methods for Large-Scale Machine Learning*, SIAM Review 60(2), 2018,
#   arXiv:1606.04838.
# - S. Ghadimi, G. Lan, *Stochastic First- and Zeroth-Order Methods for Nonconvex Stochastic Programming*, SIAM J.
#   Optim. 23(4), 2013, arXiv:1309.5549.
# - H. Peng, Y. Yu, S. Yu, *Re-Thinking the Effectiveness of Batch Normalization and Beyond*, IEEE TPAMI 46(1), 2024.
# - E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998.
# - J. Ville, *Étude critique de la notion de collectif*, 1939 (the inequality behind the bets); B. Delyon,
#   *Exponential inequalities for sums of weakly dependent variables*, Electronic J. Probab. 14, 2009 (the margins).
