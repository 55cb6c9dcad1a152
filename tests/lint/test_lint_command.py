"""`muster lint` as a command: exit codes, formats, --fix, ignore comments, other files, and its optional packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from muster.cli import call
from muster.errors import InvalidRequest
from muster.lint.engine import check, kind_of
from muster.lint.model import Source
from muster.lint.table import RULES

BAD = "#!/bin/bash\n#SBATCH --nodes=1\n# SBATCH --mem=64G\nsrun hostname\n"
GOOD = "#!/bin/bash\n#SBATCH --nodes=1\n#SBATCH --mem=64G\nsrun hostname\n"


def lint(*words: str) -> int:
    return call(["lint", *words], {}, 0.0)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.sbatch"
    path.write_text(BAD)
    return path


def names(text: str, path: str = "job.sh") -> list[str]:
    return [finding.rule for finding in check(Source(path, text))]


def test_a_finding_has_place_line_marker_reason_and_fix(script: Path, capsys: pytest.CaptureFixture[str]):
    assert lint("job.sbatch") == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("job.sbatch:3:1: error: ") and out[0].endswith("[sbatch-space]")
    assert out[1:3] == ["  3 | # SBATCH --mem=64G", "    | ^^^^^^^^^"]
    assert out[3].startswith("  why: ") and out[4].startswith("  fix: ")
    assert out[-1] == "1 file: 1 error; `muster lint --fix` corrects 1"


def test_fix_corrects_the_file(script: Path, capsys: pytest.CaptureFixture[str]):
    assert lint("--fix", "job.sbatch") == 0
    assert script.read_text() == GOOD
    assert capsys.readouterr().out == "1 file: no findings\n"


def test_notes_do_not_change_the_exit_code(script: Path):
    script.write_text("#!/bin/bash\nexport NCCL_DEBUG=INFO\npython train.py\n")
    assert names(script.read_text()) == ["debug-variable"]
    assert lint("job.sbatch") == 0


@pytest.mark.parametrize(
    "words",
    [(), ("missing.sbatch",), ("--rule", "no-such-rule", "job.sbatch"), ("--format", "xml", "job.sbatch")],
)
def test_wrong_requests_exit_with_2(script: Path, words: tuple[str, ...]):
    with pytest.raises(InvalidRequest) as raised:
        lint(*words)
    assert raised.value.exit_code == 2 and raised.value.hint


def test_rules_are_selected_by_name(script: Path):
    assert lint("--ignore", "sbatch-space", "job.sbatch") == 0
    assert lint("--rule", "fixed-port", "job.sbatch") == 0
    assert lint("--rule", "sbatch-space", "job.sbatch") == 1


def test_a_directory_is_searched_for_known_files(script: Path, capsys: pytest.CaptureFixture[str]):
    (script.parent / "notes.txt").write_text(BAD)
    (script.parent / ".hidden.sh").write_text(BAD)
    assert lint(".", "--format", "json") == 1
    assert json.loads(capsys.readouterr().out)["files"] == ["job.sbatch"]


def test_what_is_no_script_is_skipped_in_a_directory(script: Path, capsys: pytest.CaptureFixture[str]):
    (script.parent / "latin.py").write_bytes(b"caf\xe9 = 1\n")
    (script.parent / "data.json").write_bytes(b"[" + b"1," * 1_000_001 + b"1]")
    assert 1 == call(["lint", str(script.parent)], {}, 0.0)
    told = capsys.readouterr()
    assert script.name in told.out
    assert "warning: skipped: the file is not text in UTF-8: " in told.err
    assert "warning: skipped: the file is too large for a script: " in told.err


def test_fix_keeps_mode_and_links(script: Path):
    script.chmod(0o750)
    link = script.parent / "link"
    link.symlink_to(script.name)
    before = script.read_text()
    call(["lint", "--fix", str(link)], {}, 0.0)
    assert before != script.read_text()
    assert link.is_symlink()
    assert 0o750 == script.stat().st_mode & 0o7777


def test_a_script_survives_a_fix_that_cannot_be_written(script: Path):
    before = script.read_text()
    script.write_text(before + "# " + "x" * 8000 + "\n")
    words = [sys.executable, "-B", "-m", "muster", "lint", "--fix", str(script)]
    done = subprocess.run(["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *words], capture_output=True, text=True)
    assert "error: the file cannot be written" in done.stderr
    assert (2, before) == (done.returncode, script.read_text()[: len(before)])
    assert [] == list(script.parent.glob("*.part"))


def test_json_has_each_finding(script: Path, capsys: pytest.CaptureFixture[str]):
    lint("--format", "json", "job.sbatch")
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["file"] == "job.sbatch" and finding["rule"] == "sbatch-space" and finding["level"] == "error"
    assert (finding["line"], finding["column"], finding["end_line"], finding["end_column"]) == (3, 1, 3, 10)
    assert finding["fixable"] is True


def test_sarif_has_rules_results_and_fixes(script: Path, capsys: pytest.CaptureFixture[str]):
    lint("--format", "sarif", "job.sbatch")
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    (result,) = run["results"]
    rule = run["tool"]["driver"]["rules"][result["ruleIndex"]]
    assert rule["id"] == result["ruleId"] == "sbatch-space" and result["level"] == "error"
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "job.sbatch"}
    assert place["region"] == {"startLine": 3, "startColumn": 1, "endLine": 3, "endColumn": 10}
    (replacement,) = result["fixes"][0]["artifactChanges"][0]["replacements"]
    assert replacement == {
        "deletedRegion": {"startLine": 3, "startColumn": 2, "endLine": 3, "endColumn": 3},
        "insertedContent": {"text": ""},
    }


def test_ignore_comments():
    line = "export MASTER_PORT=29500"
    assert names(f"{line}\n") == ["fixed-port"]
    assert names(f"{line}  # muster: ignore=fixed-port\n") == []
    assert names(f"{line}  # muster: ignore\n") == []
    assert names(f"{line}  # muster: ignore=ephemeral-port\n") == ["fixed-port"]
    assert names(f"# muster: ignore=ephemeral-port, fixed-port\n{line}\n") == []
    assert names(f"# muster: ignore=fixed-port\n\necho\n{line}\n") == ["fixed-port"]
    assert names(f"{line}\n# muster: ignore-file=fixed-port\n") == []
    continued = "torchrun --standalone \\\n  --nproc-per-node=1 \\\n  --master_port=29500 t.py\n"
    assert names(continued) == ["fixed-port"]
    assert names(f"# muster: ignore=fixed-port\n{continued}") == []


def test_a_configuration_in_a_heredoc_is_checked_at_its_place_in_the_script():
    text = """\
#!/bin/bash
MICRO=8
cat >ds.json <<EOF
{
  "train_batch_size": 100,
  "train_micro_batch_size_per_gpu": $MICRO,
  "fp16": {"enabled": true}
}
EOF
export DS_ACCELERATOR=cpu
deepspeed --num_gpus=1 train.py --deepspeed ds.json
"""
    source = Source("run.sh", text)
    found = [(finding.rule, source.place(finding.span.start)[0]) for finding in check(source)]
    assert found == [("deepspeed-batch-sizes", 5), ("half-precision-on-cpu", 11)]
    unknown = text.replace("MICRO=8", "MICRO=$1")
    assert names(unknown, "run.sh") == ["half-precision-on-cpu"]


def test_explain_prints_the_page_of_a_rule(capsys: pytest.CaptureFixture[str]):
    assert lint("--explain", "fixed-port") == 0
    assert capsys.readouterr().out.startswith("### fixed-port\n")


def test_the_python_script_of_a_batch_script_is_read(script: Path, capsys: pytest.CaptureFixture[str]):
    script.write_text("#!/bin/bash\n#SBATCH --ntasks-per-node=4\n#SBATCH --gpus-per-task=1\nsrun python train.py\n")
    assert lint("job.sbatch") == 0
    for text in (
        "torch.cuda.set_device(local_rank)\n",
        "gpu = int(os.environ['SLURM_LOCALID'])\ntorch.cuda.set_device(gpu)\n",
        'l = int(os.environ["LOCAL_RANK"])\nd = torch.device(f"cuda:{l}")\n',
    ):
        (script.parent / "train.py").write_text(text)
        assert lint("job.sbatch") == 1
        assert "[gpus-per-task-local-rank]" in capsys.readouterr().out
    (script.parent / "train.py").write_text("l = os.environ['LOCAL_RANK']\ntorch.cuda.set_device(0)\nprint(l)\n")
    assert lint("job.sbatch") == 0


@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        ("job", "#!/bin/bash\n", "script"),
        ("submit", "#SBATCH -N 1\n", "script"),
        ("a.py", "", "python"),
        ("run", "#!/usr/bin/env python3\n", "python"),
        ("ds_config.json", "{}", "config"),
        ("config", '{"train_batch_size": 1}', "config"),
        ("default_config.yaml", "", "config"),
        ("hostfile", "n1 slots=4\n", "hostfile"),
        ("my_hosts.txt", "n1\n", "hostfile"),
        ("launch.txt", "torchrun train.py\n", "script"),
    ],
)
def test_the_kind_of_a_file(path: str, text: str, kind: str):
    assert kind_of(path, text) == kind


def test_a_missing_package_is_an_error_with_a_hint(script: Path):
    program = (
        "import sys; sys.modules['tree_sitter_bash'] = None; from muster.cli import main; main(['lint', 'job.sbatch'])"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=script.parent, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "error: `muster lint` requires a package that is not installed: tree-sitter-bash",
        f"hint: {sys.executable} -m pip install tree-sitter tree-sitter-bash PyYAML",
    ]


def test_other_commands_do_not_load_the_parser():
    program = (
        "import sys; from muster.cli import call; call(['--help'], {}, 0.0); "
        "print([name for name in sys.modules if 'lint' in name or 'tree_sitter' in name or name == 'yaml'])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "text", ["", "\n", "\x00\x01", "((((", "cat <<EOF\n", "${", "`", "'", "$(", "a" * 5000, "é" * 100]
)
def test_any_text_can_be_read(text: str):
    for name in ("a.sh", "a.json", "a.yaml", "a.py", "hostfile"):
        assert isinstance(check(Source(name, text)), list)


def test_no_rule_has_the_name_of_another():
    assert len(RULES) > 60
