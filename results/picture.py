"""Draw the README's picture from the recorded runs: python results/picture.py. Prints the text that describes it."""

from pathlib import Path

from cbn_lab import ablation, evidence, figures, runs

HERE = Path(__file__).parent
SHOWN = ("vanilla", "swapped", "gamma_9x")


def picture() -> figures.Figure:
    """Test accuracy of three structures with five activations, every seed, small setting of the protocol."""
    small = evidence.of_setting(runs.load_all(HERE / "ablation"), train_images=20_000)
    return figures.ablation(small, {row: ablation.ROWS[row] for row in SHOWN}, metric="test_accuracy")


if __name__ == "__main__":
    drawn = picture()
    (HERE / "picture.png").write_bytes(drawn.png())
    print(drawn.alt)
