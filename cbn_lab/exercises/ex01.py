"""Exercises of notebook 01: batch norm, its backward pass, its statistics, the layer, and the gallery of bugs."""

from cbn_lab.exercises._ex01_backward import BACKWARD
from cbn_lab.exercises._ex01_forward import FORWARD
from cbn_lab.exercises._ex01_layer import LAYER, ROWS
from cbn_lab.exercises._ex01_merge import MERGE
from cbn_lab.exercises._ex01_statistics import HALF_LIFE, UPDATE
from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.norms import conformance
from cbn_lab.norms.gallery import SUSPECTS

__all__ = ["EXERCISES", "ROWS"]

_WHY = {"A": "the divisor is `var.sqrt() + self.eps`", "B": "what is stored is the variance that normalizes",
        "C": "the average runs over every axis", "D": "the mode is taken from `torch.is_grad_enabled()`",
        "E": "what normalizes is the variance over n - 1", "F": "the batch gets the weight 1 - momentum",
        "G": "mean of squares minus square of mean: think of float32",
        "H": "mean and variance are computed under no_grad, so what is missing is not a value",
        "I": "the numbers are right: what does `setattr` do to those who hold the old tensor?",
        "J": "compare it with `move` in F: one call is missing"}


def check_diagnosis(student) -> None:
    require(isinstance(student, dict), "expected a dictionary from suspect to row, such as {'A': 'axes', ...}")
    missing = [name for name in SUSPECTS if student.get(name) is None]
    require(not missing, f"no row is named for {', '.join(missing)}")
    extra = sorted(str(name) for name in student if name not in SUSPECTS)
    require(not extra, f"there is no suspect {', '.join(extra)}; they are called {', '.join(SUSPECTS)}")
    unknown = {name: row for name, row in student.items() if str(row) not in conformance.CASES}
    require(not unknown, f"not a row of the table: {unknown}; names as in the table, with underscores, as a text")
    for name, bug in SUSPECTS.items():
        if student[name] not in bug.rows:
            failed = not conformance.check(bug.layer, [student[name]])[0].passed
            kind = ("fails that row too, as it compares everything; but its rule is not the broken one" if failed else
                    "passes that row")
            require(False, f"suspect {name} and `{student[name]}`: it {kind}. Look at its line again: {_WHY[name]}")


_ANSWER = {name: bug.rows[0] for name, bug in SUSPECTS.items()}

DIAGNOSIS = Spec(
    id="1.7", title="ten suspects",
    task="Each suspect differs from a correct layer by one method. Name, for each, the row of the conformance table "
         "whose rule it breaks, as a dictionary: `{'A': 'name_of_the_row', ...}`. Two of them break the same rule.",
    stub=None, reference=_ANSWER, check=check_diagnosis,
    hints=("Begin with what the method is for: the average, the divisor, the stored value, the mode, the gradient.",
           "A bug fails many rows, because most rows compare all that a layer computes. Look for the row whose "
           "sentence the code contradicts. G, I and J fail two rows at most.",
           "G gives right numbers in float64. H gives a right output and a wrong gradient. I and J store the right "
           "numbers in a wrong way."),
    mutants={
        "eps by its effect": Mutant(_ANSWER | {"A": "constant_channel"}, "suspect A"),
        "the two variances exchanged, B": Mutant(_ANSWER | {"B": "biased_variance_normalizes"}, "suspect B"),
        "another symptom of C": Mutant(_ANSWER | {"C": "batch_of_one_image"}, "suspect C"),
        "D by its code alone": Mutant(_ANSWER | {"D": "gradients"}, "suspect D"),
        "the two variances exchanged, E": Mutant(_ANSWER | {"E": "unbiased_variance_is_stored"}, "suspect E"),
        "F taken for momentum=None": Mutant(_ANSWER | {"F": "momentum_none_averages"}, "suspect F"),
        "G taken for the wrong variance": Mutant(_ANSWER | {"G": "biased_variance_normalizes"}, "suspect G"),
        "H by its no_grad": Mutant(_ANSWER | {"H": "grad_mode_is_not_train_mode"}, "suspect H"),
        "I by what it stores": Mutant(_ANSWER | {"I": "momentum_weighs_the_update"}, "suspect I"),
        "J by its missing call": Mutant(_ANSWER | {"J": "gradients"}, "suspect J"),
        "a row that is none": Mutant(_ANSWER | {"C": "channels"}, "not a row of the table"),
        "one left out": Mutant({name: row for name, row in _ANSWER.items() if name != "J"}, "no row is named for J"),
    },
    why="Reading finds the bug when the right line is beside it. The table finds it when it is not, and for layers "
        "whose source you cannot read.")

EXERCISES: tuple[Spec, ...] = (FORWARD, BACKWARD, UPDATE, HALF_LIFE, MERGE, LAYER, DIAGNOSIS)
