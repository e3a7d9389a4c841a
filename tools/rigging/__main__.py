# SPDX-License-Identifier: Apache-2.0
"""Play scenarios against a unit and say whether each of them held.

Targets: ``in-process`` is a whole unit in this process on a simulated clock: fast, and the same bytes each time.
``service`` is ``postern run`` as a process with its own configuration, on the machine's clock, over a faulty link to a
real Mosquitto. ``remote`` listens to a unit somewhere else whose camera plays the scenario's scene or video. The exit
status is 0 only if every promise held.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from agent.camera.scene_people import PERSON_IDS
from agent.cli.session import broker_settings
from agent.errors import PosternError
from agent.site.records import SiteFiles
from tools.demonstration.site import ROOT, CommandError
from tools.rigging.inprocess import play_here
from tools.rigging.outcome import Run, judge
from tools.rigging.process import POSTERN
from tools.rigging.remote import Remote
from tools.rigging.report import Verdict, as_json, as_junit, table
from tools.rigging.scenario import Scenario, load_scenario
from tools.rigging.service import Premises

SCENARIOS = ROOT / "tools" / "scenarios"
Play = Callable[[Scenario], Run | str]  # what came of it, or why this target cannot play it


@contextmanager
def target(arguments: argparse.Namespace, folder: Path) -> Iterator[Play]:
    """Set the target up once for all scenarios."""
    with ExitStack() as stack:
        if arguments.target == "in-process":
            yield lambda scenario: play_here(
                scenario, Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            )
        elif arguments.target == "service":
            program = POSTERN if arguments.program is None else (str(arguments.program),)
            yield stack.enter_context(Premises(folder, program=program)).play
        else:
            site = SiteFiles(arguments.site_folder) if arguments.site_folder is not None else None
            yield Remote(
                broker_settings(arguments),
                site=arguments.site,
                unit=arguments.unit,
                trust=arguments.trust,
                subjects=dict(arguments.subject),
                files=site,
            ).play


def play(file: Path, name: str, one: Play, *, repeat: bool) -> Verdict:
    """One scenario, judged."""
    scenario = load_scenario(file)
    run = one(scenario)
    if isinstance(run, str):
        return Verdict(file.stem, name, scenario.promise, (), None, run)
    checks = judge(scenario, run)
    if repeat:
        again = one(scenario)
        if isinstance(again, Run):
            checks.append(run.same_as(again))
    return Verdict(file.stem, name, scenario.promise, tuple(checks), run)


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tools/rig", description=__doc__)
    parser.add_argument("scenarios", nargs="*", type=Path, metavar="SCENARIO", help="default: all of tools/scenarios")
    parser.add_argument("--target", choices=("in-process", "service", "remote"), default="in-process")
    parser.add_argument("--repeat", action="store_true", help="in-process: play each twice and compare every byte")
    parser.add_argument("--checks", action="store_true", help="show every check, not only what did not hold")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument("--json", action="store_true", help="JSON on standard output instead of the table")
    service = parser.add_argument_group("service")
    service.add_argument("--program", type=Path, metavar="FILE", help="an installed postern instead of this checkout")
    remote = parser.add_argument_group("remote")
    remote.add_argument("--unit", help="the unit that plays the scenario when asked to be started")
    remote.add_argument("--site", help="its site")
    remote.add_argument("--broker", metavar="HOST")
    remote.add_argument("--port", type=int, default=8883)
    remote.add_argument("--protocol", choices=["5", "3.1.1"], default="5")
    remote.add_argument("--keys", type=Path, metavar="FOLDER", help="an auditor's files as the site kit made them")
    remote.add_argument(
        "--trust", type=Path, metavar="FOLDER", help="folder of trust.jws and site.jwk; default: --keys"
    )
    remote.add_argument("--site-folder", type=Path, metavar="FOLDER", help="the site kit's, to tell who was matched")
    remote.add_argument(
        "--subject",
        type=_subject,
        action="append",
        default=[],
        metavar="PERSON=ID",
        help="under which subject id a demo person was enrolled there; may be repeated",
    )
    arguments = parser.parse_args(words)
    if arguments.target == "remote":
        missing = [f"--{name}" for name in ("unit", "site", "broker", "keys") if getattr(arguments, name) is None]
        if missing:
            parser.error(f"--target remote needs {', '.join(missing)}")
        arguments.trust = arguments.trust or arguments.keys
    arguments.scenarios = arguments.scenarios or sorted(SCENARIOS.glob("*.yaml"))
    return arguments


def _subject(text: str) -> tuple[str, str]:
    person, separator, subject = text.partition("=")
    if person not in PERSON_IDS or not separator or re.fullmatch("[0-9a-f]{32}", subject) is None:
        raise argparse.ArgumentTypeError("write person-01= and the 32 hex digits that enrolling printed")
    return person, subject


def main() -> int:
    arguments = arguments_of()
    say = Console(stderr=True)
    verdicts: list[Verdict] = []
    try:
        with tempfile.TemporaryDirectory(prefix="postern-rig-") as folder, target(arguments, Path(folder)) as one:
            for file in arguments.scenarios:
                verdicts.append(play(file, arguments.target, one, repeat=arguments.repeat))
                say.print(f"{verdicts[-1].name}: {word(verdicts[-1])}", highlight=False)
    except (PosternError, CommandError) as error:
        print("\n".join(f"tools/rig: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return getattr(error, "exit_status", 1)
    if arguments.junit is not None:
        arguments.junit.write_bytes(as_junit(verdicts))
    if arguments.json:
        print(json.dumps(as_json(verdicts)))
    else:
        Console().print(table(verdicts, every_check=arguments.checks))
        played = [one for one in verdicts if one.run is not None]
        print(f"{sum(one.ok for one in played)} of {len(played)} as promised, {len(verdicts) - len(played)} skipped")
    return 0 if all(one.ok for one in verdicts) else 1


def word(verdict: Verdict) -> str:
    """What to say while it goes on."""
    return "skipped" if verdict.skipped is not None else "pass" if verdict.ok else "FAIL"


if __name__ == "__main__":
    sys.exit(main())
