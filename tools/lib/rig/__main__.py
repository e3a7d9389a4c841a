# SPDX-License-Identifier: Apache-2.0
"""Play scenarios against a unit and say whether each of them held.

Targets: ``in-process`` is a whole unit in this process on a simulated clock: fast, and the same bytes each time.
``service`` is ``postern run`` as a process with its own configuration, on the machine's clock, over a faulty link to a
real Mosquitto. ``remote`` listens to a unit somewhere else whose camera plays the scenario's scene or video, which
``--export`` writes for it. The exit status is 0 only if something was played and every promise held; 2 for wrong
scenarios or arguments, before anything is played.

``tools/rig soak``, ``kills`` and ``pulses`` play no scenario: faults at random times, then what came of them in
numbers; ``idle`` measures what a door costs where nobody stands.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from agent.camera.scene.people import PERSON_IDS
from agent.cli.session import broker_settings, port
from agent.errors import ConfigError, PosternError
from agent.site.records import SiteFiles
from tools.lib.demo.site import ROOT, CommandError
from tools.lib.rig import idle, kills, pulse_kills, soak
from tools.lib.rig.export import export
from tools.lib.rig.inprocess import play_here
from tools.lib.rig.judge import judge
from tools.lib.rig.outcome import Run
from tools.lib.rig.process import POSTERN
from tools.lib.rig.remote import START_TIMEOUT_S, Remote
from tools.lib.rig.report import Verdict, all_held, as_json, as_junit, table, traces
from tools.lib.rig.scenario import Scenario, load_scenarios
from tools.lib.rig.service import Premises

MODES = {"soak": soak.main, "kills": kills.main, "pulses": pulse_kills.main, "idle": idle.main}
SCENARIOS = ROOT / "tools" / "scenarios"
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
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
                start_timeout_s=arguments.wait,
            ).play


def play(name: str, scenario: Scenario, where: str, one: Play, *, repeat: bool = False) -> Verdict:
    """One scenario, judged; what goes wrong with it is its own verdict and no other's."""
    try:
        run = one(scenario)
        if isinstance(run, str):
            return Verdict(name, where, scenario.promise, skipped=run)
        checks = judge(scenario, run)
        again = one(scenario) if repeat else None
        if isinstance(again, Run):
            checks.append(run.same_as(again))
    except (PosternError, CommandError) as error:
        return Verdict(name, where, scenario.promise, error=str(error))
    except Exception:  # noqa: BLE001 - a mistake in one scenario or in the rig must not cost the others their report
        return Verdict(name, where, scenario.promise, error=traceback.format_exc())
    return Verdict(name, where, scenario.promise, tuple(checks), run)


def arguments_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tools/rig", description=__doc__)
    parser.add_argument("scenarios", nargs="*", type=Path, metavar="SCENARIO", help="default: all of tools/scenarios")
    parser.add_argument("--target", choices=("in-process", "service", "remote"), default="in-process")
    parser.add_argument("--repeat", action="store_true", help="in-process: play each twice and compare every byte")
    parser.add_argument("--checks", action="store_true", help="show every check, not only what did not hold")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument("--json", action="store_true", help="JSON on standard output instead of the table")
    parser.add_argument(
        "--export", type=Path, metavar="FOLDER", help="play nothing: write there what the camera of a unit has to play"
    )
    service = parser.add_argument_group("service")
    service.add_argument("--program", type=Path, metavar="FILE", help="an installed postern instead of this checkout")
    remote = parser.add_argument_group("remote")
    remote.add_argument("--unit", help="the unit that plays the scenario when asked to be started")
    remote.add_argument("--site", help="its site")
    remote.add_argument("--broker", metavar="HOST")
    remote.add_argument("--port", type=port, default=8883)
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
    remote.add_argument(
        "--wait", type=float, default=START_TIMEOUT_S, metavar="SECONDS", help="for its start; default: %(default)g"
    )
    arguments = parser.parse_args(words)
    if arguments.target == "remote":
        missing = [f"--{name}" for name in ("unit", "site", "broker", "keys") if getattr(arguments, name) is None]
        if missing:
            parser.error(f"--target remote needs {', '.join(missing)}")
        arguments.trust = arguments.trust or arguments.keys
    if arguments.repeat and arguments.target != "in-process":
        parser.error("--repeat compares bytes, which are the same on the simulated clock of --target in-process alone")
    if arguments.junit is not None and (arguments.junit.is_dir() or not arguments.junit.parent.is_dir()):
        parser.error(f"--junit {arguments.junit}: name a file in a folder that exists")
    arguments.scenarios = arguments.scenarios or sorted(SCENARIOS.glob("*.yaml"))
    return arguments


def _subject(text: str) -> tuple[str, str]:
    person, separator, subject = text.partition("=")
    if person not in PERSON_IDS or not separator or re.fullmatch("[0-9a-f]{32}", subject) is None:
        raise argparse.ArgumentTypeError("write person-01= and the 32 hex digits that enrolling printed")
    return person, subject


def main(words: Sequence[str] | None = None) -> int:
    """One of the modes, or the scenarios."""
    words = sys.argv[1:] if words is None else words
    if words and words[0] in MODES:
        try:
            return MODES[words[0]](words[1:])
        except CommandError as error:
            complain(str(error))
            return 1
        except KeyboardInterrupt:
            complain("interrupted")
            return INTERRUPTED
    arguments = arguments_of(words)
    try:
        scenarios = load_scenarios(arguments.scenarios)
        if arguments.export is not None:
            print("\n".join(export(arguments.scenarios, scenarios, arguments.export)))
            return 0
    except ConfigError as error:
        complain(str(error))
        return error.exit_status
    verdicts: list[Verdict] = []
    trouble, status = "", 1
    try:
        play_all(arguments, scenarios, verdicts)
    except (PosternError, CommandError) as error:
        trouble = str(error)
        status = getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        trouble, status = "interrupted", INTERRUPTED
    finally:
        for file, scenario in list(zip(arguments.scenarios, scenarios, strict=True))[len(verdicts) :]:
            why = trouble or "the rig itself ended before it was played"
            verdicts.append(Verdict(file.stem, arguments.target, scenario.promise, error=why))
        written = report(arguments, verdicts)
    if trouble:
        complain(trouble)
        return status
    return 0 if written and all_held(verdicts) else 1


def play_all(arguments: argparse.Namespace, scenarios: Sequence[Scenario], verdicts: list[Verdict]) -> None:
    """Play one after the other and add each verdict as soon as it is there."""
    say = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="postern-rig-") as folder, target(arguments, Path(folder)) as one:
        for file, scenario in zip(arguments.scenarios, scenarios, strict=True):
            verdicts.append(play(file.stem, scenario, arguments.target, one, repeat=arguments.repeat))
            say.print(f"{file.stem}: {verdicts[-1].word}", highlight=False, markup=False)


def report(arguments: argparse.Namespace, verdicts: Sequence[Verdict]) -> bool:
    """Write what was asked for; whether all of it could be written."""
    if arguments.json:
        print(json.dumps(as_json(verdicts)))
    else:
        console = Console()
        console.print(table(verdicts, every_check=arguments.checks))
        for line in traces(verdicts):
            console.print(line, highlight=False, markup=False)
        played = [one for one in verdicts if one.ok is not None]
        print(f"{sum(bool(one.ok) for one in played)} of {len(played)} as promised", end=", ")
        print(f"{len(verdicts) - len(played)} skipped" if played else "nothing was played")
    try:
        if arguments.junit is not None:
            arguments.junit.write_bytes(as_junit(verdicts))
    except OSError as error:
        complain(f"{arguments.junit}: cannot be written: {error.strerror}")
        return False
    return True


def complain(text: str) -> None:
    """On standard error, each line with the name of the program."""
    print("\n".join(f"tools/rig: {line}" for line in text.splitlines()), file=sys.stderr)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a build server that gives up gets its report as well
    sys.exit(main())
