"""JupyterLab, Notebook 7, Voila and the classic notebook as processes, each with folders of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
IPYWIDGETS7 = ROOT / ".venv-ipywidgets7"
TOKEN = "test"
START_SECONDS = 150
# Extensions that other packages bring to JupyterLab; Voila tries to load them and shows errors in the console.
NOT_IN_VOILA = ["jupyterlab-jupytext", "@jupyter-notebook/lab-extension", "@voila-dashboards/jupyterlab-preview"]
# No other tabs' state, no news, all cells in the page, a kernel at once instead of a question.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
    "docmanager-extension/plugin": {"autosave": False},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@dataclass
class Server:
    kind: str
    address: str
    work: Path  # the folder that it serves

    def end_kernels(self) -> None:
        if self.kind == "voila":
            return  # it ends a page's kernel when the page goes
        for session in json.loads(self._ask("GET", "api/sessions") or "[]"):
            self._ask("DELETE", f"api/sessions/{session['id']}")

    def _ask(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(f"{self.address}/{path}", method=method,
                                         headers={"Authorization": f"token {TOKEN}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()


def _command(kind: str, port: int, work: Path) -> list[str]:
    """How the front end is started. Skips the test where the second environment is missing."""
    host, options = "--ip=127.0.0.1", ["--no-browser", f"--port={port}"]
    new = [sys.executable, "-m", {"lab": "jupyterlab", "notebook7": "notebook"}.get(kind, kind), host, *options,
           "--allow-root", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={work}",
           "--ServerApp.port_retries=0", "--expose-app-in-browser", "--LabApp.extension_manager=readonly"]
    if kind in ("lab", "notebook7"):
        return new
    if kind == "voila":
        return [sys.executable, "-m", "voila", "--Voila.ip=127.0.0.1", *options, str(work),
                f"--VoilaConfiguration.extension_denylist={NOT_IN_VOILA}"]
    if not (IPYWIDGETS7 / ".installed").exists():
        pytest.skip("no classic notebook: make widgets7 makes the environment with ipywidgets 7.7.1")
    return [str(IPYWIDGETS7 / "bin" / "python"), "-m", "notebook", host, *options, "--allow-root",
            f"--NotebookApp.token={TOKEN}", f"--notebook-dir={work}", "--NotebookApp.port_retries=0"]


@contextlib.contextmanager
def serve(kind: str, folder: Path):
    """A running server: "lab", "notebook7", "voila" or "classic" (under ipywidgets 7.7.1)."""
    work = folder / "work"
    (work / "notebooks").mkdir(parents=True)
    for name, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    environment = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "IPYTHONDIR": str(folder / "ipython"),
                    "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
                    "CBN_LAB_DATA": str(folder / "nothing"), "OMP_NUM_THREADS": "1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = _command(kind, port, work)
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log,
                                   start_new_session=True, cwd=work)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/voila/static/voila.js" if kind == "voila" else f"{address}/api", process,
                  folder / "server.log")
        yield Server(kind, address, work)
    finally:
        _end(process, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            _end(process, signal.SIGKILL)
            process.wait(60)


def _end(process: subprocess.Popen, number: int) -> None:
    """Send the signal to the group, since a kernel is a process of its own."""
    with contextlib.suppress(ProcessLookupError):  # one that could not start has no group left, and says why elsewhere
        os.killpg(process.pid, number)


def _wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=10):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")
