"""A whole system under a steady mixed load while its processes are killed and Redis restarts.

`python -m bench.soak --minutes 10` starts a Redis with its append-only file, two echo workers and
two with the demo model under their supervisors, and two API processes. It asks for text and about
pictures, breaks connections and comes back, stops and leaves, follows each event of each answer,
and kills at random. It fails (status 1) if an answer is lost, told twice or wrong, if anything is
left over at the end, or if memory grows.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from bench import plot, store
from bench.asks import Asks
from bench.flags import settings
from bench.fleet import Fleet
from bench.following import Follower
from bench.memory import Sampler
from bench.report import machine
from bench.strikes import Strikes
from bench.tally import Tally
from bench.verdicts import Verdict
from broker import quarantine
from broker.connection import connect
from tests.stack import until

MOST_AT_ONCE = 100
SETTLE_S = 60.0


def load(fleet: Fleet, asks: Asks, per_s: float, for_s: float) -> list[Verdict]:
    """Begin requests at a steady rate, however long others take, and wait for all their ends."""
    client = connect(fleet.redis.url)
    began_s = time.monotonic()
    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        follows = []
        for count in range(int(per_s * for_s)):
            time.sleep(max(0.0, began_s + count / per_s - time.monotonic()))
            addresses = fleet.addresses[:: (1, -1)[count % 2]]
            follows.append(pool.submit(Follower(asks.draw(), addresses, client).run))
    client.close()
    return [each.result() for each in follows]


def soak(fleet: Fleet, flags: argparse.Namespace) -> Tally:
    """Load and strike for the time that was asked for, and see what is left."""
    for_s = 60 * flags.minutes
    asks = Asks(str(flags.seed), fleet.addresses[0])
    before = store.read(fleet.stack.redis)
    sampler = Sampler(fleet.pids)
    strikes = Strikes(fleet, str(flags.seed), for_s / 2)
    began_s = time.monotonic()
    verdicts = load(fleet, asks, flags.per_second, for_s)
    strikes.stop()
    minutes = (time.monotonic() - began_s) / 60
    with suppress(AssertionError):
        until(lambda: not fleet.left_over(), "everything is given back", SETTLE_S)
    sampler.stop()
    return Tally(
        minutes=minutes,
        verdicts=verdicts,
        strikes=strikes.counts,
        away=strikes.away,
        set_aside={each.job_id for each in quarantine.read_all(fleet.stack.redis)},
        lives=sampler.lives,
        before=before,
        after=store.read(fleet.stack.redis),
        left_over=fleet.left_over(),
        tracebacks=fleet.tracebacks(),
    )


def read_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=float, default=10.0)
    add("--per-second", type=float, default=3.0, metavar="N", help="requests (default: 3)")
    add("--compile", action=argparse.BooleanOptionalAction, default=True,
        help="compile the demo model first, which takes minutes (default: yes)")  # fmt: skip
    add("--seed", type=int, default=secrets.randbelow(10**9),
        help="what another run printed, for its requests and its order of faults")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="keep all figures")
    add("--plot", type=Path, metavar="PNG", help="draw the memory of every process")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print what was found, keep the figures; return the exit status."""
    flags = read_flags(arguments)
    if flags.plot:
        plot.pyplot()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    fleet = Fleet(folder, flags.compile)
    try:
        fleet.start()
        tally = soak(fleet, flags)
    finally:
        fleet.stop()
    problems = tally.problems()
    print(*tally.failures(), tally.table(), sep="\n")
    print(f"The same requests again: --seed {flags.seed}")
    print("\n".join(problems) or "all is well")
    found = {"machine": machine("bench.soak"), "settings": settings(flags)} | tally.as_json()
    if flags.json:
        flags.json.write_text(json.dumps(found) + "\n")
    if flags.plot:
        plot.draw_memory(found, flags.plot)
    if problems:
        print(f"The logs of all processes are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
