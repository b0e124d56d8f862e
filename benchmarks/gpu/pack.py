"""The wheels that benchmarks/gpu needs on a machine without a network; `make gpu-pack` runs this.

    python benchmarks/gpu/pack.py [--out .gpu-pack]

The machine has Python 3.12 on Linux (x86-64) and the packages of machine.txt; the folder gets what ppokit and
TRL need beside them, and ppokit itself. bitsandbytes' wheel brings a library per version of CUDA, ROCm and
XPU; all but those of `CUDA` are left out. At the end the wheels' own metadata is read, and anything that
is neither carried nor on the machine is an error.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
WHEELS = (
    "pydantic==2.14.3",
    "pydantic-core==2.50.4",
    "annotated-types==0.8.0",
    "typing-inspection==0.4.5",
    "datasets==5.2.0",
    "multiprocess==0.70.19",
    "dill==0.4.1",
    "evaluate==0.4.6",
    "tenacity==9.2.1",
    "trl==1.16.0",
    "bitsandbytes==0.50.2",
)
"""As constraints.txt has them, where it does."""
LEFT_OUT = {"cookiecutter", "httpx2", "jsonschema", "pyphen"}
"""What ppokit imports for new plugins' folders, and for rewards that no benchmark asks."""
PYTHON = "3.12"
GLIBC = (5, 12, 17, 24, 27, 28, 31, 34, 35)  # of manylinux_2_N: pip takes the exact names alone
CUDA = "130"  # the libraries of bitsandbytes that stay: torch 2.11.0+cu130
LIMIT = 40 * 2**20  # bytes: 64 MiB travel to the machine, the repository among them


def download(out: Path) -> None:
    """Fetch the wheels, whatever machine this is."""
    platforms = ["manylinux1_x86_64", "manylinux2014_x86_64", *(f"manylinux_2_{n}_x86_64" for n in GLIBC)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", "--dest", str(out)]
    command += [option for platform in platforms for option in ("--platform", platform)]
    subprocess.run([*command, *WHEELS], check=True)


def trim(wheel: Path) -> None:
    """Leave out the libraries of bitsandbytes that the machine does not load; its RECORD follows."""

    def stays(name: str) -> bool:
        library = Path(name).stem.removeprefix("libbitsandbytes_")
        return not name.endswith(".so") or library in ("cpu", f"cuda{CUDA}")

    trimmed = wheel.with_suffix(".tmp")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(trimmed, "w", zipfile.ZIP_DEFLATED) as new:
        rows = []
        for name in old.namelist():
            if name.endswith("/RECORD"):
                record = name
            elif stays(name):
                content = old.read(name)
                new.writestr(name, content)
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                rows.append((name, f"sha256={digest}", len(content)))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*rows, (record, "", "")])
        new.writestr(record, text.getvalue())
    trimmed.replace(wheel)


def build(out: Path) -> None:
    """ppokit's own wheel, with its entry points: the machine has nothing to build it by."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(REPOSITORY)], check=True)


def on_the_machine() -> dict[str, str | None]:
    """Packages of machine.txt and their versions, where known."""
    lines = (HERE / "machine.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version or None for name, _, version in pairs}


def missing(out: Path) -> list[str]:
    """What the wheels of a folder need and would not find there, or in another version."""
    there = on_the_machine()
    needs: list[tuple[str, Requirement]] = []
    for wheel in sorted(out.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            metadata = Parser().parsestr(archive.read(name).decode())
        there[canonicalize_name(metadata["Name"])] = metadata["Version"]
        needs += [(metadata["Name"], Requirement(text)) for text in metadata.get_all("Requires-Dist", [])]
    environment = {"python_version": PYTHON, "python_full_version": "3.12.3", "extra": ""}
    environment |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    faults = []
    for owner, need in needs:
        if need.marker is not None and not need.marker.evaluate(environment):
            continue
        name = canonicalize_name(need.name)
        version = there.get(name, "")
        if version == "" and name in LEFT_OUT:
            continue
        if version == "":
            faults.append(f"{owner} needs {need.name}, which is neither carried nor in machine.txt")
        elif version is not None and not need.specifier.contains(version, prereleases=True):
            faults.append(f"{owner} needs {need.name}{need.specifier}, and {version} is there")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / ".gpu-pack", help="emptied first")
    out: Path = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    download(out)
    for wheel in out.glob("bitsandbytes-*.whl"):
        trim(wheel)
    build(out)
    wheels = sorted(out.glob("*.whl"))
    for wheel in wheels:
        print(f"{wheel.stat().st_size / 2**20:6.2f} MiB  {wheel.name}")
    total = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{total / 2**20:6.2f} MiB in all, in {out}")
    faults = missing(out)
    if total > LIMIT:
        faults.append(f"the wheels are {total / 2**20:.0f} MiB; expected at most {LIMIT / 2**20:.0f}")
    if faults:
        sys.exit("the pack is not complete:\n" + "\n".join(faults))


if __name__ == "__main__":
    main()
