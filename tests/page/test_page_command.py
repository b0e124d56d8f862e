"""`ppokit rate` as a command: how it begins and ends, and what it says where it cannot."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

pytest.importorskip("uvicorn")

from page_server import Caller, rows_of
from ppokit.cli import app

if TYPE_CHECKING:
    from conftest import Serve

ROWS = [("p", "r"), ("p", "s"), ("q", "t"), ("q", "u")]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.csv").write_text("prompt,response\np,r\nq,s\n")


def refused(*arguments: object) -> str:
    """What the command says; it must end at once, by itself."""
    result = CliRunner().invoke(app, ["rate", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_session(serve: Serve, number: int) -> None:
    """A link to this machine, ratings, a signal: the files are there, and it ends well; then it goes on."""
    server = serve(ROWS, "--per-item", 2)
    assert server.link.startswith(f"http://127.0.0.1:{server.port}/?token=")
    assert server.output.startswith("4 responses, 2 ratings each\n")
    caller = Caller(server.port, server.token, "ana")
    item = caller.call("state")[1]["item"]["id"]
    caller.call("act", kind="answer", key="12345678", item=item, value=10)
    caller.call("act", kind="flag", key="12345679", item=item, value=True)
    code, output = server.end(number)  # with the connection still open, as a browser has
    caller.close()
    assert code == 0
    assert "ratings.csv: 1 ratings\n  ana: 1\nflagged, see ratings.flagged.csv: 1" in output
    assert "Traceback" not in output
    assert [row["rating"] for row in rows_of(server.out)] == ["10"]
    link = server.link
    server.start()
    assert server.link == link
    assert "goes on from 1 ratings" in server.output


def test_the_summary_tells_sources_apart(serve: Serve, tmp_path: Path) -> None:
    """Which raters never see: the two files' mean ratings, 9 and 1."""
    Path("other.csv").write_text("prompt,response\np,worse\n")
    server = serve([("p", "good")], "other.csv")
    caller = Caller(server.port, server.token, "ana")
    for number in range(2):
        shown = caller.call("state")[1]["item"]
        assert "other" not in str(shown)
        value = 9 if shown["responses"] == ["good"] else 1
        caller.call("act", kind="answer", key=f"1234567{number}", item=shown["id"], value=value)
    caller.close()
    code, output = server.end()
    assert code == 0
    assert "by source (mean rating):" in output
    assert "responses.csv: 9.00 of 1" in output
    assert "other.csv: 1.00 of 1" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv"], "none.csv"),
        (["empty.csv"], "empty.csv"),
        (["binary.parquet"], "binary.parquet"),
        (["folder"], "folder holds no rollouts/"),
        (["good.csv", "good.csv"], "given twice"),
        (["good.csv", "--column", "response=answer"], "no column 'answer'"),
        (["good.csv", "--column", "nonsense"], "--column nonsense"),
        (["bad.csv"], "row 2: prompt is empty"),
        (["bad.csv", "--on-bad-row", "skip"], "1 of 1 rows cannot be used"),
        (["good.csv", "--pairs"], "there are no pairs to rate"),
        (["good.csv", "--pairs", "--scale", "1-5"], "--scale is for single responses"),
        (["good.csv", "--scale", "5"], "--scale 5"),
        (["good.csv", "--scale", "0-11"], "at most 10 apart"),
        (["good.csv", "--scale", "1.5-3"], "two whole numbers"),
        (["good.csv", "--last", "1"], "no run's folder"),
        (["good.csv", "--select", "diverse"], "say how many by --limit"),
        (["good.csv", "--select", "uncertain", "--limit", "1"], "give --reward FOLDER"),
        (["good.csv", "--reward", "x"], "--reward is for --select uncertain only"),
        (["good.csv", "--select", "uncertain", "--limit", "1", "--reward", "folder"], "folder"),
        (["good.csv", "--host", "192.0.2.1"], "--host 192.0.2.1 --port 0 cannot be used"),
        (["good.csv", "--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
    ],
)
def test_what_cannot_be_rated(arguments: list[str], message: str) -> None:
    """One paragraph, exit code 2, and nothing is left behind."""
    Path("empty.csv").touch()
    Path("binary.parquet").write_bytes(b"\x00\x01\x02" * 100)
    Path("bad.csv").write_text("prompt,response\n,r\n")
    Path("folder").mkdir()
    before = sorted(Path().rglob("*"))
    stderr = refused(*arguments, "--out", "out.csv", "--port", "0")
    assert message in stderr.partition("ppokit: error: ")[2]
    assert sorted(Path().rglob("*")) == before


def test_where_ratings_cannot_go() -> None:
    Path("file").touch()
    Path("theirs.csv").write_text("precious")
    Path("folder.csv").mkdir()
    for out, message in [
        ("out.txt", "expected a file that ends in .csv"),
        ("file/out.csv", "cannot be opened"),
        ("theirs.csv", "is there already, but not its log"),
        ("folder.csv", "is there already, but not its log"),
        ("/proc/nothing/out.csv", "cannot be opened"),
    ]:
        assert message in refused("good.csv", "--out", out, "--port", 0)
    assert Path("theirs.csv").read_text() == "precious"


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        stderr = refused("good.csv", "--out", "out.csv", "--port", port)
    assert f"--port {port} cannot be used" in stderr
    assert "--port 0 takes any that is free" in stderr
    assert not list(Path().glob("out*"))


def test_two_servers_on_one_file(serve: Serve) -> None:
    server = serve(ROWS)
    assert "is in use: another `ppokit rate` writes it" in refused(
        "good.csv", "--out", server.out, "--port", 0
    )


def test_other_terms_when_it_goes_on(serve: Serve) -> None:
    server = serve(ROWS)
    server.end()
    stderr = refused("good.csv", "--out", server.out, "--scale", "1-5", "--port", 0)
    assert "was begun with --scale 0-10, but this is with --scale 1-5" in stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_however_early_it_comes(number: int) -> None:
    """At the moment in which the link is told, before the server itself listens to signals."""
    code = (
        "import signal, sys\n"
        "from ppokit.cli import main, rate_view\n"
        "original = rate_view.began\n"
        "def began(*arguments):\n"
        "    original(*arguments)\n"
        f"    signal.raise_signal({int(number)})\n"
        "rate_view.began = began\n"
        "sys.argv = ['ppokit', 'rate', 'good.csv', '--out', 'out.csv', '--port', '0']\n"
        "main()\n"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert completed.returncode == 0, completed.stderr
    assert "http://127.0.0.1:" in completed.stdout
    assert Path("out.csv").is_file(), "its files are written all the same"


def test_nothing_reaches_out(tmp_path: Path) -> None:
    """From its start to its end, the command connects to nobody and looks up no name."""
    code = (
        "import sys\n"
        "def hear(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname', 'socket.sendto'):\n"
        "        print('REACHED', event, arguments, flush=True)\n"
        "sys.addaudithook(hear)\n"
        "from ppokit.cli import main\n"
        "sys.argv = ['ppokit', 'rate', 'good.csv', '--out', 'out.csv', '--port', '0']\n"
        "main()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = ""
        while not (link := re.search(r"http://127.0.0.1:(\d+)/\?token=(\S+)", output)):
            output += process.stdout.readline()
        caller = Caller(int(link[1]), link[2], "ana")
        assert caller.call("state")[0] == 200
        caller.close()
        process.send_signal(signal.SIGINT)
        output += process.stdout.read()
    reached = [line for line in output.splitlines() if line.startswith("REACHED")]
    assert [line for line in reached if "'127.0.0.1'" not in line] == []
    assert reached  # the hook hears the address that is listened on


def test_help_reads_well_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['ppokit', 'rate', '--help']\n"
        "from ppokit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'scipy', 'numpy', 'pyarrow', 'uvicorn', 'starlette'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    completed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for option in ("--out", "--pairs", "--scale", "--per-item", "--select", "--host"):
        assert option in completed.stdout


def test_libraries_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ppokit.ratings.page.serving", raising=False)
    monkeypatch.delitem(sys.modules, "ppokit.cli.rate_view", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    stderr = refused("good.csv", "--out", "out.csv")
    assert "needs the extra `ratings`: pip install 'ppokit[ratings]'" in stderr
