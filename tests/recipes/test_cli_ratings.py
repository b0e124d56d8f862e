"""`ppokit ratings ...` as a person runs it: output, exit codes, files, errors."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("krippendorff")
pytest.importorskip("scipy")

from ppokit.cli import app
from ppokit.cli.ratings_view import findings_sections, stats_sections
from ppokit.cli.sections import on_terminal
from ppokit.ratings.findings import findings_of
from ppokit.ratings.splitting import same_prompt
from ppokit.ratings.stats import stats_of
from ppokit.ratings.table import read_ratings

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE = REPOSITORY / "recipes" / "data" / "ratings_sample.csv"
REAL = ("chat_engagement", "chat_hh_harmless_pairs", "copy_nlg_emnlp17", "translation_mlqe_roen")
GOOD = "prompt,response,rating,rater\np,r,1,ann\nq,s,2,ann\n"
BAD = GOOD + "q,s,two,ben\n"

runner = CliRunner()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.csv").write_text(GOOD)
    Path("bad.csv").write_text(BAD)


def run(*args: str) -> tuple[int, str, str]:
    result = runner.invoke(app, ["ratings", *map(str, args)])
    return result.exit_code, result.stdout, result.stderr


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_sample() -> None:
    """The five ratings that the founding text begins with, and three raters for every response."""
    table = read_ratings(SAMPLE)
    assert [r.rating for r in table.ratings[:5]] == [10, 7, 4, 9, 6]
    assert len({r.prompt for r in table.ratings[:5]}) == 5
    assert {r.rater for r in table.ratings} == {"ana", "ben", "chloe"}
    assert run("check", str(SAMPLE), "--scale", "0-10")[0] == 0


def test_check_of_a_good_file() -> None:
    assert run("check", "good.csv") == (
        0,
        "file    good.csv\nusable  2 rows\nfound   no problems\n",
        "",
    )


def test_check_names_rows_and_exits_with_1() -> None:
    code, out, err = run("check", "bad.csv", "--scale", "0-1")
    assert (code, err) == (1, "")
    assert out == (
        "file    bad.csv\nusable  2 rows\nfound   2 problems\n\n"
        "Problems\n"
        "  row 3  rating is 2; expected 0 to 1\n"
        "  row 4  rating is 'two' (text); expected a number\n"
    )
    code, out, _ = run("check", "bad.csv", "--json")
    assert code == 1
    assert json.loads(out)["problems"] == [{"row": 4, "reason": "rating is 'two' (text); expected a number"}]


@pytest.mark.parametrize("scale", ["1", "5-1", "a-b", "1-2-3"])
def test_scales_that_are_none(scale: str) -> None:
    code, _, err = run("check", "good.csv", "--scale", scale)
    assert code == 2
    assert "expected the smallest and the largest rating, as in 0-10" in err


def test_stats() -> None:
    code, out, err = run("stats", str(SAMPLE), "--plot", "s.png")
    assert (code, err) == (0, "")
    assert Path("s.png").read_bytes()[:4] == b"\x89PNG"
    for line in (
        "ratings   63, by 3 raters",
        "items     21 responses to 7 prompts",
        "          21 rated 3 times",
        "coverage  100.0 % of all raters times items",
        "scale     0 to 10, whole numbers",
        "repeats   0 duplicates, 0 contradictions",
        "  Alpha is 0.8 or more: good agreement.",
    ):
        assert line in out.splitlines()


def test_stats_as_json_at_another_level_and_seed() -> None:
    default = json.loads(run("stats", str(SAMPLE), "--json")[1])
    ordinal = json.loads(run("stats", str(SAMPLE), "--json", "--level", "ordinal")[1])
    other = json.loads(run("stats", str(SAMPLE), "--json", "--seed", "1")[1])
    assert default["agreement"]["alpha"]["value"] == other["agreement"]["alpha"]["value"]
    assert default["agreement"]["alpha"]["low"] != other["agreement"]["alpha"]["low"]
    assert default["agreement"]["alpha"]["value"] != ordinal["agreement"]["alpha"]["value"]
    assert ordinal["agreement"]["level"] == "ordinal"
    assert [rater["name"] for rater in default["raters"]] == ["ana", "ben", "chloe"]


def test_stats_refuses_bad_rows_or_counts_them() -> None:
    code, _, err = run("stats", "bad.csv")
    assert code == 2
    assert "row 4: rating is 'two' (text); expected a number" in err
    assert "--on-bad-row skip" in err
    code, out, _ = run("stats", "bad.csv", "--on-bad-row", "skip")
    assert code == 0
    assert "left out  1 bad row" in out
    assert "Unknown: nothing was rated twice." in out


def test_what_people_write_is_no_command_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Path("h.csv").write_text("prompt,response,rating,rater\np,r,1,[bold]\x1b[2Jx\nq,s,2,ben\np,r,2,ben\n")
    assert "[bold]\ufffd[2Jx" in run("stats", "h.csv")[1]
    table = read_ratings("h.csv")
    on_terminal(stats_sections(stats_of(table, replicates=20)))
    on_terminal(findings_sections(findings_of(table), "\x1b[2J", 2, []))
    out = capsys.readouterr().out
    assert "[bold]\ufffd[2Jx" in out
    assert "\x1b" not in out
    assert "█" in out


def test_normalise() -> None:
    code, out, _ = run("normalise", str(SAMPLE), "n.csv")
    assert (code, out) == (0, "n.csv: 21 items from 63 ratings\n")
    rows = rows_of("n.csv")
    assert list(rows[0]) == ["prompt", "response", "rating", "rating_se", "ratings", "item", "split"]
    assert sum(float(row["rating"]) for row in rows) == pytest.approx(0, abs=1e-9)
    assert {row["ratings"] for row in rows} == {"3"}
    again = read_ratings("n.csv")
    assert len(again.ratings) == 21
    code, _, err = run("normalise", str(SAMPLE), "n.csv")
    assert code == 2
    assert "is there already and is not overwritten" in err


def test_normalise_tells_of_what_it_left_out() -> None:
    assert "note: bad rows left out: 1" in run("normalise", "bad.csv", "n.csv", "--on-bad-row", "skip")[2]


def test_split_keeps_all_columns_and_rows() -> None:
    lines = ["Q;response;rating;extra"] + [f"prompt {i % 10};r{i};{i},5;x{i}" for i in range(40)]
    lines += ["PROMPT  3;r;1;y", ";;;"]
    Path("s.csv").write_text("\n".join(lines))
    code, out, _ = run("split", "s.csv", "parts", "--held-out", "0.3", "--column", "prompt=Q")
    assert code == 0
    assert "held_out.csv:" in out
    train, held_out = rows_of("parts/train.csv"), rows_of("parts/held_out.csv")
    assert list(train[0]) == ["Q", "response", "rating", "extra"]
    assert len(train) + len(held_out) == 41
    prompts = [{same_prompt(row["Q"]) for row in part} for part in (train, held_out)]
    assert prompts[0].isdisjoint(prompts[1])
    assert len(prompts[1]) == 3
    assert run("split", "s.csv", "parts", "--column", "prompt=Q")[0] == 2
    other = run("split", "s.csv", "more", "--held-out", "0.3", "--column", "prompt=Q", "--seed", "1")
    assert other[0] == 0
    assert rows_of("more/held_out.csv") != held_out


def test_what_is_split_off_a_european_spreadsheet_can_be_read() -> None:
    """7,5 between semicolons is a number; between commas it must be 7.5. Texts stay as they are."""
    rows = "p;r;7,5;8,5;1,5\nq;1,5;2;;1,5\ns;t;+0,5; 1,0 ;x\n"
    Path("euro.csv").write_text("prompt;response;rating;wit;note\n" + rows)
    assert run("split", "euro.csv", "out", "--column", "aspects=wit")[0] == 0
    result = {row["prompt"]: row for part in ("train", "held_out") for row in rows_of(f"out/{part}.csv")}
    assert [result[p]["rating"] for p in "pqs"] == ["7.5", "2", "+0.5"]
    assert [result[p]["wit"] for p in "pqs"] == ["8.5", "", " 1.0 "]
    assert [result[p]["note"] for p in "pqs"] == ["1,5", "1,5", "x"]
    assert result["q"]["response"] == "1,5"
    assert run("check", "out/train.csv")[0] == run("check", "out/held_out.csv")[0] == 0


def test_split_of_json_lines() -> None:
    lines = [{"prompt": f"p{i}", "response": "r", "rating": i, "tags": ["a", "b"]} for i in range(4)]
    Path("s.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("split", "s.jsonl", "parts", "--held-out", "0.25")[0] == 0
    (row,) = rows_of("parts/held_out.csv")
    assert json.loads(row["tags"]) == ["a", "b"]


@pytest.mark.parametrize("share", ["0", "1", "-1"])
def test_shares_that_are_none(share: str) -> None:
    code, _, err = run("split", "good.csv", "parts", f"--held-out={share}")
    assert code == 2
    assert "expected a share between 0 and 1" in err


@pytest.mark.parametrize("tool", ["argilla", "label_studio"])
def test_export_and_import(tool: str) -> None:
    assert run("export", str(SAMPLE), "out.csv", "--to", tool)[0] == 0
    code, out, err = run("import", "out.csv", "back.csv", "--from", tool)
    assert (code, out, err) == (0, "back.csv: 63 ratings\n", "")
    key = lambda row: (row["item"], row["rater"])  # noqa: E731
    with SAMPLE.open(encoding="utf-8", newline="") as file:
        assert sorted(rows_of("back.csv"), key=key) == sorted(csv.DictReader(file), key=key)
    assert run("export", str(SAMPLE), "unrated.csv", "--to", tool, "--unrated")[0] == 0
    assert len(rows_of("unrated.csv")) == 21


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("stats", "none.csv"), "there is no file none.csv"),
        (("stats", "good.csv", "--column", "promt=x"), "did you mean 'prompt'?"),
        (("stats", "good.csv", "--column", "prompt"), "expected a column after the =, as in prompt=Question"),
        (("stats", "good.csv", "--column", "prompt=a", "--column", "prompt=b"), "was given 'a' before"),
        (("stats", "good.csv", "--column", "rating=Rating"), "no column 'Rating'; it has"),
        (("stats", "good.csv", "--plot", "x.pdf"), "expected .png"),
        (("normalise", "good.csv", "out.txt"), "expected a file that ends in .csv"),
    ],
)
def test_errors(args: tuple[str, ...], message: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, ppokit.cli; "
        "print([m for m in ('torch', 'scipy', 'krippendorff', 'numpy', 'pydantic', 'ppokit.ratings.table') "
        "if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("name", REAL)
def test_real_files(name: str, shared_ratings: Path) -> None:
    """Every command on every real file; what is exported comes back with each rating."""
    path = shared_ratings / f"{name}.csv"
    assert run("check", str(path))[0] == 0
    assert run("stats", str(path), "--plot", "s.png")[0] == 0
    assert run("normalise", str(path), "n.csv")[0] == 0
    assert run("split", str(path), "parts")[0] == 0
    count = len(read_ratings(path).ratings)
    assert len(rows_of("parts/train.csv")) + len(rows_of("parts/held_out.csv")) == count
    for tool in ("argilla", "label_studio"):
        assert run("export", str(path), f"{tool}.csv", "--to", tool)[0] == 0
        assert run("import", f"{tool}.csv", f"back_{tool}.csv", "--from", tool)[0] == 0
        given = sorted((r.prompt, r.response, r.rating, r.rater) for r in read_ratings(path).ratings)
        back = sorted(
            (r.prompt, r.response, r.rating, r.rater) for r in read_ratings(f"back_{tool}.csv").ratings
        )
        assert given == back
