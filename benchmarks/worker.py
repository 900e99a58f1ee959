"""The process one engine lives in: reads a command per line, does it, answers with a line of JSON.

    {"do": "write", ...}                    make the checkpoint
    {"do": "open", "engine": ..., ...}      load the engine
    {"do": "prepare", "pairs": ..., ...}    bring pairs into the engine's input types
    {"do": "run", ...}                      score them: seconds, peak memory, and the scores where they are wanted
    {"do": "quit"}

An answer with ``error`` says what failed; the process goes on. Whatever libraries print goes to standard error.

Memory. On CUDA the most that torch had allocated during a run, above what was allocated when the engine was open. On
the CPU the same of the process' resident memory: the kernel's own high-water mark (VmHWM), set back before each run
after freed memory was returned to the system. Where the kernel has none, memory is None.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.engines import ENGINES, Adapter, Place
from benchmarks.pairs import Pair

PROC = Path("/proc/self")


class Worker:
    """State between commands."""

    def __init__(self) -> None:
        self._adapter: Adapter | None = None
        self._cuda = False
        self._loaded: int | None = None
        self._pairs: list[Pair] = []
        self._pairs_file = ""
        self._prepared: dict[str, Any] = {}

    def write(self, directory: str, shape: dict[str, int], device: str, dtype: str) -> dict[str, Any]:
        from benchmarks import checkpoint
        from benchmarks.floor import Shape

        checkpoint.write(Path(directory), Shape(**shape), device, dtype)
        return {}

    def open(self, engine: str, model: str, device: str, dtype: str, threads: int) -> dict[str, Any]:
        begin = time.perf_counter()
        import torch

        torch.set_num_threads(threads)
        self._cuda = device == "cuda"
        self._adapter = ENGINES[engine](Place(model, device, dtype))
        torch.set_num_threads(threads)
        seconds = time.perf_counter() - begin
        _touch_weights()
        self._trim()
        self._loaded = _allocated() if self._cuda else _resident("VmRSS")
        return {
            "seconds": seconds,
            "loaded": self._loaded,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if self._cuda else "",
            "versions": {name: found for name in (self._adapter.package, "torch") if (found := _version(name))},
        }

    def prepare(self, pairs: str, settings: dict[str, Any]) -> dict[str, Any]:
        assert self._adapter is not None, "open comes first"
        if pairs != self._pairs_file:
            rows = json.loads(Path(pairs).read_text(encoding="utf-8"))
            self._pairs = [Pair(*(tuple(ids) for ids in row)) for row in rows]
            self._pairs_file, self._prepared = pairs, {}
        begin = time.perf_counter()
        self._prepared[_key(settings)] = self._adapter.prepare(self._pairs, settings)
        return {"seconds": time.perf_counter() - begin}

    def run(self, settings: dict[str, Any], scores: bool) -> dict[str, Any]:
        assert self._adapter is not None, "open comes first"
        prepared = self._prepared[_key(settings)]
        self._trim()
        self._reset_peak()
        self._wait()
        begin = time.perf_counter()
        raw = self._adapter.run(prepared, settings)
        self._wait()
        seconds = time.perf_counter() - begin
        peak = self._peak()
        answer: dict[str, Any] = {"seconds": seconds, "peak": peak}
        if scores:
            answer["scores"] = asdict(self._adapter.read(raw, self._pairs, settings))
        return answer

    def _wait(self) -> None:
        if self._cuda:
            import torch

            torch.cuda.synchronize()

    def _trim(self) -> None:
        """Give freed memory back, so that what earlier work needed is not counted again."""
        gc.collect()
        if self._cuda:
            import torch

            torch.cuda.empty_cache()
        elif sys.platform == "linux":
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, other C libraries may not
            if trim is not None:
                trim(0)

    def _reset_peak(self) -> None:
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        elif (PROC / "clear_refs").exists():
            (PROC / "clear_refs").write_text("5", encoding="ascii")

    def _peak(self) -> int | None:
        """Bytes above the loaded engine."""
        if self._cuda:
            import torch

            highest: int | None = torch.cuda.max_memory_allocated()
        else:
            highest = _resident("VmHWM") if (PROC / "clear_refs").exists() else None
        return None if highest is None or self._loaded is None else max(0, highest - self._loaded)


def _touch_weights() -> None:
    """Read every tensor once: weights mapped from a file count as loaded memory, not as memory of the first run."""
    import torch

    for thing in gc.get_objects():
        if isinstance(thing, torch.nn.Parameter) and thing.device.type == "cpu":
            thing.detach().flatten()[::512].float().sum()


def _resident(field: str) -> int | None:
    """Bytes of VmRSS (now) or VmHWM (peak), None where there is no such file."""
    if not (PROC / "status").exists():
        return None
    for line in (PROC / "status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _allocated() -> int:
    import torch

    allocated: int = torch.cuda.memory_allocated()
    return allocated


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return ""


def _key(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def main() -> None:
    """Answer commands until ``quit`` or the end of the input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not stand among the answers
    worker = Worker()
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "write": worker.write,
        "open": worker.open,
        "prepare": worker.prepare,
        "run": worker.run,
    }
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("do")
        if name == "quit":
            break
        try:
            answer = commands[name](**command)
        except Exception as error:  # any library may raise anything; the asker decides what it means
            import traceback

            traceback.print_exc()
            text = str(error).strip().splitlines()
            answer = {"error": f"{type(error).__name__}: {text[0] if text else ''}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    sys.stderr.flush()
    os._exit(0)  # taking a dozen large interpreters apart takes minutes and frees nothing that matters


if __name__ == "__main__":
    main()
