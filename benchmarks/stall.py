"""The pauses of both event loops while a copy is given and taken, and gets go on."""

from __future__ import annotations

import argparse
import secrets
from contextlib import AsyncExitStack

from .copies import copied
from .figures import Mistake, Rounds, Skipped, percentile
from .servers import BROKERS, add_numbers, add_server, server

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_server(parser, *BROKERS)
    add_numbers(parser, {"--rows": (1_000_000, "rows"), "--rounds": (3, "copies over each broker")})


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure, print, and return the figures. Raises `Mistake`."""
    figures: dict[str, object] = {"rows": arguments.rows}
    rounds = Rounds()
    kinds = []
    for kind in BROKERS:
        async with AsyncExitStack() as stack:
            try:
                url = await stack.enter_async_context(server(kind, arguments))
            except Skipped as skipped:
                print(f"  {kind} is left out: {skipped}")
                continue
            kinds.append(kind)
            for _ in range(arguments.rounds):
                namespace = f"bench-{secrets.token_hex(4)}"
                async with copied(url, namespace, arguments.rows, ticks=True) as sides:
                    for name, side in zip(("donor", "joiner"), sides, strict=True):
                        rounds.add(f"{kind} {name}", percentile(side.pauses, 99.9))
                        rounds.add(f"{kind} {name} ticks", len(side.pauses))
                        rounds.add(f"{kind} {name} longest", max(side.pauses))
    if not kinds:
        raise Mistake("no broker was there")
    for name in ("donor", "joiner"):
        worst = max(kinds, key=lambda kind: rounds.median(f"{kind} {name}"))
        figures[f"{name}_ms"] = round(rounds.median(f"{worst} {name}"), 1)
        for kind in kinds:
            figures[f"{kind}_{name}_ms"] = round(rounds.median(f"{kind} {name}"), 1)
            longest = round(rounds.median(f"{kind} {name} longest"), 1)
            figures[f"{kind}_{name}_longest_ms"] = longest
            ticks = round(rounds.median(f"{kind} {name} ticks"))
            figures[f"{kind}_{name}_ticks"] = ticks
            print(
                f"  {kind}, {name}: p99.9 {rounds.median(f'{kind} {name}'):.1f} ms, longest {longest} ms"
                f" of {ticks:,} ticks"
            )
    return figures
