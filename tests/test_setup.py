"""The set-up: one list of dependencies, Colab left alone, a README that names what exists, a clean repository."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import cbn_lab

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for line in [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])]]
TAKEN_IN = {extra for requirement in REQUIREMENTS if requirement.name == PROJECT["name"]  # by another extra
            for extra in requirement.extras}
REQUIREMENTS = [requirement for requirement in REQUIREMENTS if requirement.name != PROJECT["name"]]
INSTALLED = sorted(set(EXTRAS) - TAKEN_IN)
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

# What Colab had in 2026-08, with Python 3.13.
COLAB = {
    "torch": "2.11.0+cu128",
    "torchvision": "0.26.0+cu128",
    "numpy": "2.1.3",
    "matplotlib": "3.10.0",
    "ipywidgets": "7.7.1",
    "ipython": "7.34.0",
    "ipykernel": "6.17.1",
}


def _tracked() -> list[Path]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout, so there is no list of tracked files")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


# Dependencies


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_requirement_is_one_lower_bound(requirement):
    assert [s.operator for s in requirement.specifier] == [">="], "lower bounds only: exact pins break on Colab"


def test_each_requirement_stands_once():
    names = [requirement.name for requirement in REQUIREMENTS]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", COLAB)
def test_installing_on_colab_replaces_nothing(name):
    for requirement in REQUIREMENTS:
        if requirement.name == name:
            assert requirement.specifier.contains(COLAB[name])


def test_colab_list_covers_the_runtime_dependencies():
    """The exceptions are on Colab too, in whatever version (SymPy comes with torch), and no bound of ours is recent."""
    assert {Requirement(line).name for line in PROJECT["dependencies"]} - {"tqdm", "scipy", "sympy"} <= set(COLAB)


@pytest.mark.parametrize("version", ["3.11.0", "3.12.1", "3.13.0"])
def test_supported_pythons(version):
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    assert not SpecifierSet(PROJECT["requires-python"]).contains("3.10.12")


def test_environment_yml_is_python_pip_and_the_package_with_every_extra():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, via_pip = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    assert pip == "pip"
    assert python.split(" ") == ["python", PROJECT["requires-python"]]
    (line,) = via_pip["pip"]
    extras = re.fullmatch(r"-e \.\[(.+)\]", line).group(1).split(",")
    assert sorted(extras) == INSTALLED


@pytest.mark.parametrize("text", [MAKEFILE, README], ids=["Makefile", "README"])
def test_install_commands_take_every_extra(text):
    lists = re.findall(r"(?<=\.\[)[\w,]+(?=\])", text)
    assert lists and all(sorted(extras.split(",")) == INSTALLED for extras in lists)


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == cbn_lab.__version__ == citation["version"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)
    (paper,) = citation["references"]
    assert paper["doi"] == "10.1109/TPAMI.2023.3319005"
    assert [author["family-names"] for author in paper["authors"]] == ["Peng", "Yu", "Yu"]


def test_import_leaves_torch_and_the_notebook_stack_alone():
    code = "import sys, cbn_lab; print([m for m in ('torch', 'numpy', 'matplotlib', 'ipywidgets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Make


def _make(*arguments, cwd=ROOT, **environment):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", *arguments], cwd=cwd, env=inherited | environment, capture_output=True, text=True,
                          timeout=200)


def _targets() -> set[str]:
    return set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE).group(1).split())


def test_help_lists_every_target():
    for arguments in (["help"], []):
        assert set(re.findall(r"^  make (\w+) +\S", _make(*arguments).stdout, flags=re.MULTILINE)) == _targets()


def _bare_copy(tmp_path) -> Path:
    """A folder, with a space in its name, that holds nothing but what `make install` reads."""
    folder = tmp_path / "fresh copy"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def _stub(tmp_path, name: str, script: str) -> str:
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_missing_python_is_explained(tmp_path):
    result = _make("test", "PYTHON=no-such-python", cwd=_bare_copy(tmp_path))
    assert result.returncode != 0
    assert "There is no no-such-python here: install Python 3.11 or newer" in result.stdout


def test_old_python_is_explained(tmp_path):
    old = _stub(tmp_path, "python3.9", 'case "$1" in -V) echo Python 3.9.2;; *) exit 1;; esac')
    result = _make("lab", f"PYTHON={old}", cwd=_bare_copy(tmp_path))
    assert result.returncode != 0
    assert "is Python 3.9.2, which is too old: install Python 3.11" in result.stdout


def test_missing_venv_module_is_explained(tmp_path):
    bare = _stub(tmp_path, "python3", 'case "$2" in *ensurepip*) exit 1;; esac')
    result = _make("install", f"PYTHON={bare}", cwd=_bare_copy(tmp_path))
    assert result.returncode != 0
    assert "apt install python3-venv" in result.stdout


def test_the_second_environment_has_the_widgets_of_colab():
    pins = dict(re.findall(r"\b(\w+)==([\d.]+)", MAKEFILE))
    assert {name: pins[name] for name in ("ipywidgets", "ipython", "ipykernel")} == {
        name: COLAB[name] for name in ("ipywidgets", "ipython", "ipykernel")}


def test_missing_network_is_explained(tmp_path):
    """A real virtual environment, and an index at a port of this machine where nobody listens."""
    folder = _bare_copy(tmp_path)
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0",
               "PIP_NO_CACHE_DIR": "1", "PIP_FIND_LINKS": ""}
    result = _make("install", f"PYTHON={sys.executable}", cwd=folder, **nowhere)
    assert result.returncode != 0
    assert "check the network connection" in result.stdout
    assert not (folder / ".venv" / ".installed").exists(), "the next run must try again"


def test_everything_listens_on_this_machine_only():
    for text in (MAKEFILE, README):
        commands = re.findall(r"^.*(?:jupyterlab|jupyter lab) --.*$", text, flags=re.MULTILINE)
        assert commands and all("--ip=127.0.0.1" in command for command in commands)
        assert "token=" not in text


def test_ci_script_is_executable_bash():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")


# README


def _code_in(text: str) -> str:
    return "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S) + re.findall(r"`([^`\n]+)`", text))


def test_readme_names_exactly_the_make_targets():
    assert set(re.findall(r"\bmake ([a-z0-9]+)", _code_in(README))) == _targets()


def test_readme_names_exactly_the_subcommands():
    if importlib.util.find_spec("cbn_lab.cli") is None:
        pytest.skip("cbn_lab.cli is not written yet")
    listed = subprocess.run([sys.executable, "-c", "from cbn_lab.cli import main; main(['--help'])"],
                            capture_output=True, text=True).stdout
    subcommands = set(re.search(r"\{([\w,]+)\}", listed).group(1).split(","))
    assert set(re.findall(r"^cbn-lab ([a-z]+)", _code_in(README), flags=re.MULTILINE)) == subcommands


def test_readme_code_runs():
    (code,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    effects, verdict = run.stdout.splitlines()
    assert effects.startswith("Three effects") and verdict == "None"


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("https:") and not _planned(target):
            assert (ROOT / target).exists(), f"README.md links to {target}, which does not exist"


def _planned(target: str) -> bool:
    """A notebook that is still being written: it has no source either."""
    path = ROOT / target
    return path.suffix == ".ipynb" and not (path.parent / "source" / f"{path.stem}.py").exists()


def test_readme_maps_every_notebook():
    for source in (ROOT / "notebooks" / "source").glob("*.py"):
        assert f"(notebooks/{source.stem}.ipynb)" in README


def test_readme_says_whose_layer_this_is():
    assert "reconstruction of CBN that is consistent with that abstract" in " ".join(README.split())
    assert "de Vries" in README and "Yao et al." in README
    assert not re.search(r"the CBN of Peng", README, flags=re.IGNORECASE)


# The repository


def test_no_tracked_file_is_large():
    large = {path.name: path.stat().st_size for path in _tracked() if path.stat().st_size > 2_000_000}
    assert large == {}


def test_tracked_text_names_no_registry_and_no_machine():
    """The words are put together here so that this file does not contain them."""
    hosts = ["pypi" + r"\.org", "python" + r"hosted\.org", "pytorch" + r"\.org/whl", "anaconda" + r"\.org"]
    folders = [rf"(?<![\w.])/{name}/" for name in ("work", "root")]
    for path in _tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures and arrays
        text = re.sub(r"data:image/[\w+.-]+;base64,[A-Za-z0-9+/=]+", "", text)
        found = [pattern for pattern in hosts + folders if re.search(pattern, text)]
        assert found == [], f"{path.relative_to(ROOT)} names {found}"
