"""The README's picture shows what the records say."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_readme_describes_the_picture_that_the_records_give():
    spec = importlib.util.spec_from_file_location("picture", ROOT / "results" / "picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = module.picture()
    (alt,) = re.findall(r"!\[(.*)\]\(results/picture.png\)", (ROOT / "README.md").read_text())
    assert alt == drawn.alt, "run python results/picture.py and put the sentence it prints into the README"
    assert (ROOT / "results" / "picture.png").read_bytes()[:4] == b"\x89PNG"
