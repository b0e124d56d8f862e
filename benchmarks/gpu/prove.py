"""Prove ppokit on a GPU: is it right (part 1), and how fast (part 2)? docs/gpu.md explains the sections.

    python benchmarks/gpu/prove.py --part 1 --out $OUT
    python benchmarks/gpu/prove.py --part 2 --out $OUT
    python benchmarks/gpu/prove.py --part 2 --dry-run --out /tmp/dry      tiny sizes on the CPU

Each section runs in a process of its own and has its seconds; one that fails or runs over is recorded with
its error and what it had measured, and the next goes on. `part1.json` or `part2.json` has every figure, with
the card's name, and `part1.md` or `part2.md` one table.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
sys.path[:0] = [str(HERE), str(REPOSITORY), str(REPOSITORY / "plugins")]
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # sizes vary from step to step
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # whoever asks for a card does not open it

PART_S = 345.0  # of each part, with what is written at its end
DRY = 4.0  # times as many in a dry run, whose processor others may use
Section = tuple[str, float, Callable[["Bench"], dict[str, Any]]]


IMPORTS = ("datasets", "transformers.models.qwen2.modeling_qwen2", "transformers.models.qwen3.modeling_qwen3")
IMPORTS += ("accelerate", "ppokit.build", "ppokit.trainer")
"""What takes sections long to import. On a card not peft, whose bitsandbytes opens it."""
LATE = "PPOKIT_GPU_IMPORTS_LATE"
"""Set where a process that has imported these can fork none that uses the card."""


class Bench:
    """What a section is given.

    Attributes:
        dry: whether this is the dry run, in tiny sizes.
        out: folder for what comes back.
        figures: of the sections before, by name.
        kept: of the running section so far.
    """

    def __init__(self, dry: bool, out: Path) -> None:
        import torch

        self.dry, self.out = dry, out
        self.figures: dict[str, dict[str, Any]] = {}
        self.kept: dict[str, Any] = {}
        self.device = torch.device("cpu" if dry else "cuda:0")
        self._file, self._ends = out / ".section.json", 0.0

    @property
    def left_s(self) -> float:
        """Seconds until the running section is stopped."""
        return self._ends - time.perf_counter()

    def keep(self, **figures: Any) -> None:
        """Write down figures of the running section, which count even where it does not come to its end."""
        self.kept |= {name: None if value != value else value for name, value in figures.items()}  # no nan
        write_whole(self._file, json.dumps(self.kept))

    def _keep_warning(self, message: Warning | str, category: type[Warning], *where: Any) -> None:
        """ppokit's own say what it does in another way, and so what a figure is of."""
        print(warnings.formatwarning(message, category, *where[:2]), file=sys.stderr, flush=True)
        if category.__name__ == "PpokitWarning":
            self.keep(warnings=[*self.kept.get("warnings", []), str(message)])

    def run(self, measure: Callable[[Bench], dict[str, Any]], limit_s: float) -> dict[str, Any]:
        """A section's figures, with `error` where it failed; `seconds` is what it took.

        In a fork, which frees all memory and has little to import. So nothing here may open the card: a
        process that has cannot fork another that does.
        """
        began = time.perf_counter()
        self._ends = began + limit_s
        self._file.unlink(missing_ok=True)
        sys.stdout.flush()
        pid = os.fork()
        # A group of its own, killed with what it starts; but of this session, whose end means it too.
        os.setpgid(pid, pid or os.getpid())
        if pid == 0:
            warnings.showwarning = self._keep_warning
            try:
                self.keep(**measure(self))
            except BaseException as error:
                traceback.print_exc()
                self.keep(error=f"{type(error).__name__}: {error}"[:400])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        killed = True
        try:
            while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and self.left_s >= 0:
                time.sleep(0.05)
            killed = ended[0] == 0
        finally:  # nor does it outlive an interrupt
            if killed:
                os.killpg(pid, 9)
                ended = os.waitpid(pid, 0)
        figures = json.loads(self._file.read_text()) if self._file.exists() else {}
        if killed:
            figures["error"] = f"stopped after {limit_s:.0f} s"
        elif ended[1]:
            figures["error"] = f"ended by signal {-os.waitstatus_to_exitcode(ended[1])}"
        self._file.unlink(missing_ok=True)
        return {**figures, "seconds": round(time.perf_counter() - began, 1)}


def machine() -> dict[str, str]:
    """Versions of what it ran with."""
    names = ("torch", "transformers", "peft", "accelerate")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def card(bench: Bench) -> dict[str, Any]:
    """The card's name and memory, and whether the sampler can be compiled here."""
    import torch

    from ppokit_rollouts.compiler import missing

    lacks = missing(bench.device.type)
    compiles = {"torch.compile": f"not here: this machine lacks {lacks}" if lacks else "can be used"}
    if bench.dry:
        return {"card": "none: a dry run on the CPU", **compiles}
    if not torch.cuda.is_available():
        raise RuntimeError("no GPU is visible; expected one, or --dry-run")
    properties = torch.cuda.get_device_properties(0)
    torch.ones(8, device=bench.device).sum().item()
    return {
        "card": properties.name,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        **compiles,
    }


def table(results: dict[str, dict[str, Any]], head: str) -> str:
    """One Markdown table of all figures."""
    lines = [head, "", "| section | figure | value |", "|---|---|---|"]
    for section, figures in results.items():
        for name, value in figures.items():
            shown = (
                f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split()).replace("|", "/")
            )
            lines.append(f"| {section} | {name} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", type=int, choices=(1, 2), required=True)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "bench_out/gpu")))
    parser.add_argument("--only", help="sections to run, beside those in --out")
    arguments = parser.parse_args()
    began = time.perf_counter()
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.dry_run, arguments.out.resolve())
    from sections import PARTS

    if LATE not in os.environ:
        for module in (*IMPORTS, "peft") if bench.dry else IMPORTS:
            importlib.import_module(module)
    sections = PARTS[arguments.part]
    chosen = None if arguments.only is None else set(arguments.only.split(","))
    unknown = (chosen or set()) - {name for name, _, _ in sections}
    if unknown:
        parser.error(f"--only {', '.join(sorted(unknown))}: no such section in part {arguments.part}")
    file = arguments.out / f"part{arguments.part}.json"
    earlier = json.loads(file.read_text())["sections"] if chosen is not None and file.exists() else {}
    times = DRY if bench.dry else 1.0
    for name, seconds, measure in [("card", 40.0, card), *sections]:
        if chosen is not None and name not in {*chosen, "card"}:
            continue
        left = times * PART_S - (time.perf_counter() - began)
        if left < 5:
            bench.figures[name] = {"error": "not begun: the part's time was up", "seconds": 0.0}
        else:
            print(f"{name} ...", flush=True)
            bench.figures[name] = bench.run(measure, min(times * seconds, left))
        if name == "card":
            if "error" in bench.figures[name]:
                if LATE not in os.environ:
                    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, LATE: "1"})
                sys.exit(f"the card cannot be used: {bench.figures[name]['error']}")
            bench.figures[name] |= machine()
            here, there = (own.get("card") for own in (bench.figures[name], earlier.get(name, {})))
            if earlier and here != there:
                sys.exit(f"{file} has figures of {there}; expected {here}: choose another --out")
            bench.figures = {**earlier, **bench.figures}
        text = write(bench, arguments.part)
    print(text)
    failed = [name for name, figures in bench.figures.items() if "error" in figures]
    if failed:
        sys.exit(f"sections that failed: {', '.join(failed)}")


def write(bench: Bench, part: int) -> str:
    """The figures so far, as JSON and as one table: they count even where the machine goes away."""
    where = bench.figures["card"].get("card", "an unknown card")
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    result = {"part": part, "dry_run": bench.dry, "when": when, "sections": bench.figures}
    write_whole(bench.out / f"part{part}.json", json.dumps(result, indent=1))
    text = table(bench.figures, f"ppokit on {where}, {when}, part {part}")
    write_whole(bench.out / f"part{part}.md", text)
    return text


def write_whole(path: Path, text: str) -> None:
    """All of a file or what was there before: the machine may go away meanwhile."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    main()
