"""Notebook 08: what waits, crops on the device, limits, gains, half precision, and two about several devices."""

import inspect

import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_

from cbn_lab.exercises import ex08_crops, ex08_gain, ex08_half, ex08_limits, ex08_moments
from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.exercises.tools import call, close, number


def a_loop(model, batches, optimizer):
    """One epoch; images and labels are on the GPU already."""
    total, correct, hard = 0.0, 0, []
    for images, labels in batches:
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        if loss > 100:
            break
        optimizer.zero_grad()
        loss.backward()
        norm = clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        total += loss.item()
        right = logits.argmax(1) == labels
        correct = correct + right.sum()
        wrong = images[~right]
        hard.append(wrong.mean())
        print(f"gradient {norm:.2f}", end=" ")
    return total / len(batches), correct, hard


_SOURCE = inspect.getsource(a_loop).splitlines()
_LINES = {_SOURCE[n - 1].strip(): n for n in range(1, len(_SOURCE) + 1)}
_WAITING = {"if loss > 100:": "Python needs to know which way to go, so the loss has to be there",
            "total += loss.item()": "`.item()` makes a Python number of the loss",
            "wrong = images[~right]": "how many images are wrong decides the size of the result, and with it the "
                                      "memory that is asked for",
            'print(f"gradient {norm:.2f}", end=" ")': "what is printed has to be known"}
_FREE = {"logits = model(images)": "it only hands out work",
         "loss = F.cross_entropy(logits, labels)": "it only hands out work",
         "loss.backward()": "it only hands out work",
         "norm = clip_grad_norm_(model.parameters(), max_norm=1.0)": "the norm, and the factor made of it, stay on the "
                                                                      "device",
         "optimizer.step()": "it only hands out work",
         "right = logits.argmax(1) == labels": "the mask stays on the device",
         "correct = correct + right.sum()": "the sum stays on the device",
         "hard.append(wrong.mean())": "the mean stays on the device; the list holds tensors"}
_ANSWER = {_LINES[line] for line in _WAITING}


def numbered() -> str:
    """The loop of exercise 8.1 with the numbers of its lines."""
    return "\n".join(f"{n:2}  {line}" for n, line in enumerate(_SOURCE, start=1))


def _check_waits(student):
    require(isinstance(student, (set, frozenset, list, tuple)), "expected the numbers of lines, as a set: {3, 4}")
    lines = {number(one, "a line number") for one in student}
    require(all(line == int(line) for line in lines), "a line number is a whole number")
    lines = {int(line) for line in lines}
    unknown = sorted(lines - set(range(1, len(_SOURCE) + 1)))
    require(not unknown, f"the listing has no line {', '.join(map(str, unknown))}; it has {len(_SOURCE)}")
    for line, why in _FREE.items():
        require(_LINES[line] not in lines, f"line {_LINES[line]} does not wait: {why}")
    outside = sorted(lines - _ANSWER)
    require(not outside, f"line {', '.join(map(str, outside))} does nothing on the device in a step")
    for line, why in _WAITING.items():
        require(_LINES[line] in lines, f"line {_LINES[line]} waits as well: {why}")


WAITS = Spec(
    id="8.1", title="what waits for the device",
    task="In which lines of the loop does the processor wait for the device, in each step? Give their numbers, as a "
         "set such as `{3, 4}`.",
    stub=None, reference=_ANSWER, check=_check_waits,
    hints=("A line waits if Python needs a *value* that the device is still computing. Handing out work, and keeping "
           "tensors in variables and lists, needs none.",
           "`.item()` is one of four. Which other lines decide something, print something or need to know a size?",
           "Look at the `if`, at the `print`, and at the mask in square brackets."),
    mutants={
        ".item() alone": Mutant({_LINES["total += loss.item()"]}, _WAITING["if loss > 100:"]),
        "everything but .item()": Mutant(_ANSWER - {_LINES["total += loss.item()"]}, _WAITING["total += loss.item()"]),
        "without the mask": Mutant(_ANSWER - {_LINES["wrong = images[~right]"]}, _WAITING["wrong = images[~right]"]),
        "without the print": Mutant(_ANSWER - {_LINES['print(f"gradient {norm:.2f}", end=" ")']},
                                    "what is printed has to be known"),
        "the backward pass": Mutant(_ANSWER | {_LINES["loss.backward()"]},
                                    f"line {_LINES['loss.backward()']} does not wait"),
        "the sum": Mutant(_ANSWER | {_LINES["correct = correct + right.sum()"]}, "the sum stays on the device"),
        "the clipping": Mutant(_ANSWER | {_LINES["norm = clip_grad_norm_(model.parameters(), max_norm=1.0)"]},
                               "the norm, and the factor made of it"),
        "the list": Mutant(_ANSWER | {_LINES["hard.append(wrong.mean())"]}, "the list holds tensors"),
        "the return": Mutant(_ANSWER | {len(_SOURCE)}, "does nothing on the device in a step"),
        "counted from 0": Mutant({line - 1 for line in _ANSWER}, "line 6 does not wait"),
    },
    why="`cbn_lab.waits.found` runs a function and names such lines; on a GPU `torch.cuda.set_sync_debug_mode('warn')` "
        "does. None of the four is needed in every step. Sums stay on the device and are read once at the end of a "
        "part. A loss that is not finite is found there too, a few steps later. Instead of cutting out the wrong "
        "images, weigh all of them with the mask, `right.logical_not()`, as numbers.")


def share_weight(mine, total, ranks):
    """What a rank multiplies its loss with, so that the mean of all ranks' gradients is that of the whole batch.

    The loss is the mean over the rank's `mine` images; the batch has `total` images on `ranks` ranks.
    """
    raise NotImplementedError


def _share_weight(mine, total, ranks):
    return ranks * mine / total


_WEIGHTS = {
    "none": ("1 is right for equal shares only: an image on a rank with few images would count more than others",
             lambda mine, total, ranks: 1.0),
    "share": ("this is right if the gradients are added up; they are averaged, so each is divided by the number of "
              "ranks once more", lambda mine, total, ranks: mine / total),
    "ranks": ("this makes a sum of the mean, but all ranks count alike, however many images they have",
              lambda mine, total, ranks: float(ranks)),
    "upside down": ("this is upside down: a rank with more images has to count more",
                    lambda mine, total, ranks: total / (ranks * mine) if mine else 0.0),
    "images": ("this makes the sum over the rank's images; the mean over the whole batch divides by total as well",
               lambda mine, total, ranks: float(mine)),
    "images times ranks": ("the sum over all images is right with this; divide by total for their mean",
                           lambda mine, total, ranks: float(mine * ranks)),
    "divided twice": ("the number of ranks divides already, in the mean that is taken over them; this divides by it "
                      "again", lambda mine, total, ranks: mine / (total * ranks)),
    "divided": ("this only divides once more by the number of ranks; how many images a rank has is left out",
                lambda mine, total, ranks: 1 / ranks),
    "share upside down": ("this is the rank's share upside down; mine / total is its share, and a rank with more "
                          "images has to count more", lambda mine, total, ranks: total / mine if mine else 0.0),
    "the others": ("this weighs a rank with the images of the others",
                   lambda mine, total, ranks: ranks * (total - mine) / total),
}


def _check_weight(student):
    for mine, total, ranks in ((3, 8, 2), (5, 8, 2), (32, 128, 4), (0, 5, 3), (1, 7, 3)):
        mistakes = {said: wrong(mine, total, ranks) for said, wrong in _WEIGHTS.values()}
        try:
            found = number(call(student, mine, total, ranks), "the weight")
        except ZeroDivisionError:
            require(False, f"your function divides by 0 for mine = {mine}, total = {total}, ranks = {ranks}")
        close(found, _share_weight(mine, total, ranks), f"mine = {mine}, total = {total}, ranks = {ranks}",
              what="the weight", mistakes=mistakes)


WEIGHT = Spec(
    id="8.7", title="unequal shares",
    task="A batch of `total` images is spread over `ranks` processes, and one of them has `mine` of them (perhaps "
         "none). Its loss is the mean over its own images. The gradients of the processes are *averaged*. By what must "
         "the loss be multiplied, so that the average is the gradient of the mean over the whole batch?",
    stub=share_weight, reference=_share_weight, check=_check_weight,
    hints=("Write the mean over the whole batch as a sum over ranks of (mean over the rank) times something.",
           "That something is mine / total. The average over the ranks divides by their number. What undoes that?"),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _WEIGHTS.items()},
    why="With $g_r$ the gradient of rank $r$'s mean, $\\frac1n\\sum_i \\nabla F_i = \\sum_r \\frac{n_r}{n} g_r = "
        "\\frac1R\\sum_r \\big(R\\,\\frac{n_r}{n}\\big) g_r$. For equal shares the weight is 1, which is why its "
        "absence is seldom noticed.")


EXERCISES = (WAITS, ex08_crops.CROPS, ex08_limits.LIMITS, ex08_gain.GAIN, ex08_half.HALF, ex08_moments.MOMENTS,
             WEIGHT)
