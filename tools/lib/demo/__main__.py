# SPDX-License-Identifier: Apache-2.0
"""Postern in half a minute, with nothing but this checkout.

Makes a throw-away site, enrols two of three demo people (who do not exist) with consent, plays a scene before the
simulated camera of a real unit, and prints the events that a subscriber received over a real broker and verified.
The exit status is 0 only if all expected events arrived, and no other.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from agent.clock import SystemClock
from agent.errors import PosternError
from agent.keys import load_public_key
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.site import units
from agent.subscribe.files import TrustFile
from agent.subscribe.show import HEADER, as_columns, as_json
from agent.subscribe.subscriber import Handed, Subscriber
from agent.subscribe.verify import VerifiedEvent
from tools.lib.demo.brokers import DemoBroker
from tools.lib.demo.picture import write_page
from tools.lib.demo.report import Outcome, judge, stage_times, what_is_where
from tools.lib.demo.site import PROGRAM, ROOT, SITE, TOO_SLOW, UNIT, CommandError, DemoSite

SCENE = ROOT / "tools" / "scenes" / "demo.yaml"
ENROLLED, STRANGER = ("person-01", "person-02"), "person-03"
SETTLE_S = 10.0  # how long the last events may take after the scene has ended
UNIT_TIMEOUT_S = 600.0  # for a scene of 24 s: a machine that draws and detects at a twentieth of its pace


class Demo:
    """The steps, in order; prints for people unless JSON was asked for."""

    def __init__(self, folder: Path, *, as_json_lines: bool) -> None:
        self._site = DemoSite(folder)
        self._json = as_json_lines
        self._began = time.monotonic()

    def play(self) -> Outcome:
        """All steps; raises CommandError or PosternError when one fails."""
        site = self._site
        self._busy("making a site")
        site.create()
        self._say("site", "authority, site key and broker certificate made")
        with DemoBroker(site.site, site.folder / "broker") as broker:
            self._say("broker", f"{broker.name}, on 127.0.0.1:{broker.port}, mutual TLS")
            self._busy("making the unit's keys")
            site.add_unit(port=broker.port, protocol=broker.protocol, scene=SCENE)
            broker.reload(site.site)
            self._say("unit", f"{UNIT}: keys made on the unit, certificate, epoch keys and policy installed")
            subjects = {}
            for person in ENROLLED:
                self._busy(f"{person} stands before the simulated camera; some seconds, on a slow machine a minute")
                subject, advice = site.enrol(person, port=broker.port, protocol=broker.protocol)
                subjects[person] = subject
                self._say(
                    "enrol", f"{person} consented: {advice[-1]} captures, subject {subject[:8]}…, no picture kept"
                )
            self._say("enrol", f"{STRANGER} was not asked, so nothing is known of {STRANGER}")
            return self._watch(broker, subjects)

    def _watch(self, broker: DemoBroker, subjects: dict[str, str]) -> Outcome:
        site = self._site
        keys = site.site.client(PROGRAM)
        settings = BrokerSettings(
            "127.0.0.1",
            Credentials.in_folder(keys),
            port=broker.port,
            protocol=broker.protocol,
        )
        trust = TrustFile(site.site.trust, load_public_key(site.site.site_jwk))
        received: list[Handed] = []
        with Subscriber(settings, site=SITE, trust=trust, clock=SystemClock()) as subscriber:
            listener = threading.Thread(target=self._listen, args=(subscriber, received), daemon=True)
            listener.start()
            self._say("scene", f"{SCENE.name} plays; events as the subscriber verified them:")
            if not self._json:
                print(f"\n      {HEADER}")
            log = self._run_unit()
            deadline = time.monotonic() + SETTLE_S
            while not _has_stopped(received) and time.monotonic() < deadline:
                time.sleep(0.05)
            subscriber.stop()
            listener.join(2)
        return judge(
            received, subjects, log, key=lambda audience, epoch: units.epoch_key(site.site.folder, audience, epoch)
        )

    def _listen(self, subscriber: Subscriber, received: list[Handed]) -> None:
        for outcome in subscriber:
            received.append(outcome)
            print(as_json(outcome) if self._json else f"      {as_columns(outcome)}", flush=True)

    def _run_unit(self) -> str:
        """Run the service until the scene ends; its log."""
        command = [sys.executable, "-m", "agent", "run", "-c", str(self._site.config)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=UNIT_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            told = error.stderr or b""
            (self._site.folder / "unit.log").write_bytes(told if isinstance(told, bytes) else told.encode())
            raise CommandError(f"the scene of 24 s did not end within {UNIT_TIMEOUT_S:g} s: {TOO_SLOW}") from None
        (self._site.folder / "unit.log").write_text(done.stderr)
        if done.returncode != 0:
            raise CommandError(f"postern run ended with status {done.returncode}: {done.stderr.strip()[-800:]}")
        return done.stderr

    def _busy(self, what: str) -> None:
        """What is being done, for whoever watches a terminal; the line gives way to the next."""
        if not self._json and sys.stderr.isatty():
            print(f"\r\033[K        {what} …", end="\r", file=sys.stderr, flush=True)

    def _say(self, step: str, text: str) -> None:
        if not self._json:
            clear = "\r\033[K" if sys.stderr.isatty() and sys.stdout.isatty() else ""
            print(f"{clear}{time.monotonic() - self._began:5.1f} s  {step:<7} {text}", flush=True)


def _has_stopped(received: list[Handed]) -> bool:
    return any(
        isinstance(one, VerifiedEvent) and getattr(one.event.data, "condition", None) == "stopping" for one in received
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/demo", description=__doc__)
    parser.add_argument("--json", action="store_true", help="events as JSON lines, then one summary object")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures of what happened")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the demo to look into it")
    args = parser.parse_args()
    if args.html is not None and not os.access(args.html.parent, os.W_OK | os.X_OK):
        parser.error(f"--html: there is no folder {args.html.parent} to write to: choose another place")
    folder = Path(tempfile.mkdtemp(prefix="postern-demo-"))
    try:
        outcome = Demo(folder, as_json_lines=args.json).play()
    except (CommandError, PosternError) as error:
        print(f"tools/demo: {error}\ntools/demo: files are in {folder}", file=sys.stderr)
        return 1
    print(json.dumps(summary(outcome)) if args.json else "\n".join(lines(outcome, folder, kept=args.keep)))
    if args.html is not None:
        site = DemoSite(folder)
        try:
            write_page(args.html, site.config, SCENE, outcome.said, verdict(outcome))
        except OSError as error:
            print(f"tools/demo: cannot write {args.html} ({error.strerror}): choose another place", file=sys.stderr)
            return 1
        if not args.json:
            print(f"\nwhat happened, in pictures: {args.html}")
    if outcome.ok and not args.keep:
        shutil.rmtree(folder)
    return 0 if outcome.ok else 1


def summary(outcome: Outcome) -> dict[str, Any]:
    """The summary for machines."""
    return {
        "ok": outcome.ok,
        "expected": outcome.expected,
        "matched": outcome.matched,
        "unexpected": outcome.unexpected,
        "refused": outcome.refused,
        "frames_per_second": outcome.frames_per_second,
        "stages_us": outcome.stages,
    }


def verdict(outcome: Outcome) -> str:
    """One sentence: whether all went as it must."""
    matched, enrolled = ", ".join(outcome.matched) or "nobody", ", ".join(outcome.expected)
    others = f"{outcome.refused} refused and {len(outcome.unexpected)} unexpected events"
    return f"{'as' if outcome.ok else 'NOT AS'} expected: matched {matched} of enrolled {enrolled}; {others}"


def lines(outcome: Outcome, folder: Path, *, kept: bool) -> list[str]:
    """The summary for people."""
    text = [
        "",
        verdict(outcome),
        f"{STRANGER} walked up to the door as well: no event, no counter, no log line, no embedding kept",
        f"{outcome.frames_per_second:.1f} frames/s (the scene's pace)",
        *stage_times(outcome),
    ]
    if kept or not outcome.ok:
        text += ["", *what_is_where(folder)]
    return text


if __name__ == "__main__":
    sys.exit(main())
