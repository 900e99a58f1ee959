"""Results as text and as JSON. What the columns mean: ``docs/benchmarks.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

from benchmarks import floor
from benchmarks.floor import Shape, Work
from benchmarks.profiles import PROFILES, padding
from benchmarks.rounds import ProfileTimings, Results, Timing, least_flops

TOLERANCE = 1e-4
"""Nats per token by which an engine in float32 may differ from the reference before its speed counts for nothing."""

CHES_TOLERANCE = 1e-3
"""The same for CHES, as a share of its mean magnitude."""

HEADER = (
    "engine",
    "settings",
    "pairs/s",
    "+-",
    "response tok/s",
    "time / ours",
    "of matmul",
    "peak MiB",
    "err/token",
    "err/response",
)
CHES_HEADER = ("engine", "settings", "pairs/s", "+-", "time / ours", "peak MiB", "CHES error")


def text(results: Results, shape: Shape, dtype: str) -> str:
    """All tables, with what was left out and why."""
    parts = []
    for profile in results.profiles:
        parts.append("\n".join(_head(profile, shape)))
        for similarity, header in ((False, HEADER), (True, CHES_HEADER)):
            timings = [timing for timing in profile.timings if timing.case.similarity == similarity]
            if timings:
                ours = next((timing for timing in timings if timing.case.engine == "ours"), None)
                rows = [_row(timing, ours, profile, shape, dtype) for timing in timings]
                parts.append(grid([header, *rows]))
    if results.opened:
        parts.append(_opened(results))
    if results.skipped:
        parts.append("\n".join(["Left out:", *(f"  {name}: {why}" for name, why in results.skipped.items())]))
    return "\n\n".join(parts) + "\n"


def wrong(results: Results, dtype: str) -> list[str]:
    """The cases that disagree with the reference, with the profile; only float32 is held to the tolerances."""
    return [
        f"{timing.case.name} ({profile.name})"
        for profile in results.profiles
        for timing in profile.timings
        if _disagrees(timing, dtype)
    ]


def ratio(timing: Timing, ours: Timing) -> float:
    """Median over the rounds of the time it takes / the time ours takes in the same round."""
    return median(its / our for its, our in zip(timing.seconds, ours.seconds, strict=True))


def share(timing: Timing, profile: ProfileTimings, shape: Shape) -> float:
    """Least work / (seconds x measured matmul rate), medians over the rounds."""
    return least_flops(shape, profile.pairs) / (median(timing.seconds) * median(profile.rates))


def data(results: Results, shape: Shape, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Everything measured, for machines to read: raw seconds of every round, bytes, nats, FLOP/s."""
    return {
        "environment": dict(environment),
        "shape": asdict(shape),
        "opened": {name: asdict(opened) for name, opened in results.opened.items()},
        "skipped": results.skipped,
        "profiles": [
            {
                "name": profile.name,
                "pairs": len(profile.pairs),
                "response_tokens": sum(pair.response_tokens for pair in profile.pairs),
                "least_flops": least_flops(shape, profile.pairs),
                "matmul_flops_per_s": profile.rates,
                "timings": [_timing(timing) for timing in profile.timings],
            }
            for profile in results.profiles
        ],
    }


def grid(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, columns aligned; the first two to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rules = ["-" * (width + 2) if number < 2 else "-" * (width + 1) + ":" for number, width in enumerate(widths)]
    return "\n".join([line(rows[0]), f"|{'|'.join(rules)}|", *map(line, rows[1:])])


def _head(profile: ProfileTimings, shape: Shape) -> list[str]:
    pairs = profile.pairs
    means = [fmean(map(len, column)) for column in zip(*((p.prompt, p.chosen, p.rejected) for p in pairs), strict=True)]
    least = sum((floor.minimal(pair) for pair in pairs), Work(0, 0, 0))
    naive = sum((floor.apart([len(ids) for ids, _ in p.rows], p.response_tokens) for p in pairs), Work(0, 0, 0))
    saved = 1 - least.tokens / naive.tokens
    body, head = floor.body_flops(shape, least), floor.head_flops(shape, least)
    bound = len(pairs) * median(profile.rates) / (body + head)
    return [
        f"## {PROFILES[profile.name].title}",
        "",
        f"{len(pairs)} pairs, mean tokens {means[0]:.0f} / {means[1]:.0f} / {means[2]:.0f}; a prompt computed once "
        f"saves {saved:.0%} of the tokens; 8 unsorted pairs a batch pad them to {padding(pairs, 8):.2f} times.",
        f"Least work {(body + head) / len(pairs) / 1e9:.1f} GFLOP per pair, body : head = {body / head:.1f} : 1; "
        f"matmul {median(profile.rates) / 1e9:,.0f} GFLOP/s, so at most {bound:.2f} pairs/s.",
    ]


def _row(timing: Timing, ours: Timing | None, profile: ProfileTimings, shape: Shape, dtype: str) -> list[str]:
    seconds = median(timing.seconds)
    pairs = len(profile.pairs)
    half = (max(timing.seconds) - min(timing.seconds)) / 2
    spread = f"{half / seconds:.0%}" if len(timing.seconds) > 1 else "-"
    front = [timing.case.name, _how(timing), f"{pairs / seconds:.2f}", spread]
    times = "-" if ours is None else "1" if timing is ours else f"{ratio(timing, ours):.2f}"
    peak = "-" if timing.peak is None else f"{timing.peak / 2**20:.0f}"
    mark = " WRONG" if _disagrees(timing, dtype) else ""
    if timing.case.similarity:
        assert timing.ches_error is not None
        return [*front, times, peak, f"{timing.ches_error:.0e}{mark}"]
    assert timing.token_error is not None
    assert timing.sum_error is not None
    return [
        *front,
        f"{sum(pair.response_tokens for pair in profile.pairs) / seconds:,.0f}",
        times,
        f"{share(timing, profile, shape):.0%}",
        peak,
        f"{'' if timing.token_exact else '~'}{timing.token_error:.0e}{mark}",
        f"{timing.sum_error:.0e}",
    ]


def _how(timing: Timing) -> str:
    how = timing.case.how
    if timing.tried:
        how += f", batch {timing.settings['batch']} of {', '.join(str(tried['batch']) for tried, _ in timing.tried)}"
    if timing.path:
        how += f": {timing.path}"
    return how


def _disagrees(timing: Timing, dtype: str) -> bool:
    if dtype != "float32":
        return False
    if timing.case.similarity and timing.ches_error is not None and timing.ches_error > CHES_TOLERANCE:
        return True
    return timing.token_error is not None and timing.token_error > TOLERANCE


def _opened(results: Results) -> str:
    prepared = {
        timing.case.name: sum(
            other.prepare for profile in results.profiles for other in profile.timings if other.case is timing.case
        )
        for profile in results.profiles
        for timing in profile.timings
    }
    rows = [("outside the rounds", "versions", "load s", "loaded MiB", "prepare s", "threads")]
    for name, opened in ((name, opened) for name, opened in results.opened.items() if name in prepared):
        rows.append(
            (
                name,
                ", ".join(opened.versions.values()),
                f"{opened.seconds:.1f}",
                "-" if opened.loaded is None else f"{opened.loaded / 2**20:.0f}",
                f"{prepared[name]:.2f}",
                str(opened.threads),
            )
        )
    return grid(rows)


def _timing(timing: Timing) -> dict[str, Any]:
    return {
        "case": timing.case.name,
        "engine": timing.case.engine,
        "settings": dict(timing.settings),
        "path": timing.path,
        "tried": [[dict(settings), _finite(seconds)] for settings, seconds in timing.tried],
        "prepare_s": timing.prepare,
        "seconds": timing.seconds,
        "peak_bytes": timing.peak,
        "token_error_nats": _finite(timing.token_error),
        "token_error_exact": timing.token_exact,
        "sum_error_nats": _finite(timing.sum_error),
        "ches_error_share": _finite(timing.ches_error),
    }


def _finite(value: float | None) -> float | str | None:
    """JSON has no infinity."""
    return "infinite" if value == float("inf") else value
