"""Run the recipes of recipes/uses, and write and print the tables of their figures.

    python benchmarks/uses/measure.py                         all uses, three seeds, the project's own data
    python benchmarks/uses/measure.py translation --seeds 0   one run
    python benchmarks/uses/measure.py --real                  on ../shared/data, which is never copied here
    python benchmarks/uses/measure.py --jobs 2                two runs side by side, each on half of the cores
    python benchmarks/uses/measure.py --render                only the tables, from what was run before

Each run is a process, `ppokit train`, and leaves one JSON file in benchmarks/uses/results. A run whose recipe
and data are those of its file is not run again, so that hours of runs can be divided over days and machines;
one that was stopped goes on from its checkpoint. The tables in docs/uses.md and the READMEs are made of the
files. Runs with other results than these, which are trials, lie beside their results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from real_data import mapped  # noqa: E402
from results import RESULTS, digest, dumped, inputs, read_results, result_file, result_of  # noqa: E402
from rows import SHARED  # noqa: E402
from tables import NOT_YET, render, table  # noqa: E402

from ppokit.run.machine import cores  # noqa: E402
from uses import REPOSITORY, SEEDS, USES, Use  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("uses", nargs="*", metavar="USE", help=f"of {', '.join(USES)}; all, if none is given")
    parser.add_argument("--real", action="store_true", help="on the data in ../shared/data")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--render", action="store_true", help="run nothing")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="keys of the recipe, for a trial"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    options = parser.parse_args()
    if unknown := sorted(set(options.uses) - set(USES)):
        parser.error(f"there is no use {unknown[0]}; expected one of {', '.join(USES)}")
    if options.set and options.results == RESULTS:
        parser.error("--set is for trials; expected another folder with --results")
    if options.real and not SHARED.is_dir():
        parser.error(f"there is no folder {SHARED}")
    # All uses of one seed first, so that an early end leaves something of each.
    wanted = [(USES[name], seed) for seed in options.seeds for name in options.uses or USES]
    pool = ThreadPoolExecutor(options.jobs)
    try:
        runs = [
            pool.submit(run, use, seed, options.real, options.set, options.results, options.jobs)
            for use, seed in ([] if options.render else wanted)
        ]
        failed = sum(not done.result() for done in runs)
    finally:  # an interrupted run saves a checkpoint, and none is begun after it
        pool.shutdown(cancel_futures=True)
    if options.results == RESULTS:
        render(options.results)
    results = read_results(options.results, "real" if options.real else "own")
    print(table(results, "recipes/uses") or NOT_YET)
    return min(failed, 1)


def run(use: Use, seed: int, real: bool, changes: list[str], folder: Path, jobs: int = 1) -> bool:
    """Train and evaluate a use with a seed, unless it was done; whether it is done now.

    Args:
        jobs: runs side by side, which divide the cores.
    """
    data = "real" if real else "own"
    runs = REPOSITORY / "runs" / "uses" if folder == RESULTS else folder.resolve() / "runs"
    out = runs / data / f"{use.name}-{seed}"
    files, keys = mapped(use, out.parent / f"{use.name}-data") if real else ([], [])
    known = digest([*inputs(use), *files], keys)
    path = result_file(folder, data, use.name, seed)
    if path.is_file() and not changes and json.loads(path.read_text(encoding="utf-8"))["digest"] == known:
        print(f"{data} {use.name} {seed}: done before", flush=True)
        return True
    command = [sys.executable, "-m", "ppokit", "train"]
    begun, spent = out.with_name(f"{out.name}.begun"), out.with_name(f"{out.name}.seconds")
    beginning = json.loads(begun.read_text()) if begun.is_file() else {}
    started = {"digest": known, "changes": changes}
    if can_go_on(out) and {key: beginning.get(key) for key in started} == started:
        command += ["--resume", str(out)]
    else:
        shutil.rmtree(out, ignore_errors=True)
        spent.unlink(missing_ok=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        beginning = {**started, "version": version()}
        begun.write_text(json.dumps(beginning))
        command += [str(use.folder / "recipe.yaml"), f"run.seed={seed}", f"run.out={out}", *keys, *changes]
    threads = max(1, cores() // jobs)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    log = out.with_name(f"{out.name}.log")
    print(f"{data} {use.name} {seed}: begins, and writes {log}", flush=True)
    seconds_before, start = float(spent.read_text()) if spent.is_file() else 0.0, time.monotonic()
    try:
        with log.open("w", encoding="utf-8") as output:
            code = subprocess.run(
                command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output, check=False
            ).returncode
    finally:  # a run that goes on took what its beginning took, too
        seconds = seconds_before + time.monotonic() - start
        spent.write_text(f"{seconds}")
    if code:
        print(f"{data} {use.name} {seed}: ended with {code}", flush=True)
        return False
    result = result_of(
        use,
        out,
        data=data,
        seed=seed,
        known=known,
        version=beginning["version"],
        threads=threads,
        seconds=seconds,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumped(result), encoding="utf-8")
    judge = result["judge"]
    before, after = (sum(judge[when]) / len(judge[when]) for when in ("before", "after"))
    print(f"{data} {use.name} {seed}: {judge['name']} {before:.4g} -> {after:.4g}", flush=True)
    return True


def can_go_on(out: Path) -> bool:
    """Whether a folder has a run that was stopped, and not one that is done."""
    end_file = out / "end.json"
    end = json.loads(end_file.read_text(encoding="utf-8")) if end_file.is_file() else None
    is_done = end is not None and not end["stopped_by"] and not end["error"]
    return not is_done and any((out / "checkpoints").glob("*"))


def version() -> str:
    """The commit of the code, with `-dirty` where files differ from it: others than results and pages."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    code = (".", ":(exclude)benchmarks/uses/results", ":(exclude)*.md")
    commit = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return f"{commit}-dirty" if changed else commit


if __name__ == "__main__":
    sys.exit(main())
