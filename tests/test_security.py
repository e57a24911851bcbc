"""What is read is data, never code: no unsafe YAML, and no pickle but those of our own processes' pipes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import hwsearch
import hwsearch.kernels
from hwsearch.report.page import html_page

PACKAGE = Path(hwsearch.__path__[0])
# Both ends of the pipe between a process and the child that it has started.
PIPES = {PACKAGE / "measure" / "child.py", PACKAGE / "measure" / "child_main.py"}
SOURCES = sorted({*PACKAGE.rglob("*.py"), *Path(hwsearch.kernels.__path__[0]).rglob("*.py")})
UNPICKLERS = re.compile(r"(?m)^\s*(?:import|from) +(?:pickle|cloudpickle|dill|joblib|shelve|marshal)\b")
SUSPECTS = re.compile(r"yaml|\beval\(|\bexec\(|pickle|torch\.load|shell|os\.system|trust_remote_code")


def test_nothing_unpickles_but_the_two_ends_of_a_pipe() -> None:
    found = {path for path in SOURCES if UNPICKLERS.search(path.read_text(encoding="utf-8"))}
    assert found == PIPES


def test_files_are_read_as_data() -> None:
    suspects = [path for path in SOURCES if SUSPECTS.search(path.read_text(encoding="utf-8"))]
    assert PACKAGE / "files.py" in suspects  # which reads all YAML
    for path in suspects:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert name not in {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}, path
            assert options.get("allow_pickle", "False") == "False" and "read_pickle" not in name, path
            assert name != "torch.load" or options.get("weights_only") == "True", path
            assert options.get("shell", "False") == "False" and name != "os.system", path
            assert options.get("trust_remote_code", "False") == "False", path


def test_a_page_lets_no_script_run_whatever_slips_through() -> None:
    page = html_page("<b>", "")
    assert "&lt;b&gt;" in page
    assert "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none';" in page
