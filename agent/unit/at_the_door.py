# SPDX-License-Identifier: Apache-2.0
"""What people meet at one unit, put together: the gate and its inputs, lights, questions, rules and outputs.

``Door`` belongs to the pipeline's thread; commands reach it by ``Request`` and ``Verification`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from agent.camera.base import Picture
from agent.clock import Clock
from agent.config.camera import SceneCamera
from agent.config.door import (
    ButtonInput,
    CommandInput,
    EventOutput,
    GpioInput,
    GpioOutput,
    KeyInput,
    Light,
    OsdpOutput,
    TokenInput,
)
from agent.config.schema import ButtonActivation, Config
from agent.detect.gate import ButtonGate, FaceLimits, Gate, ZoneGate
from agent.door.acts import Inputs, Press, Request, ScenePresses
from agent.door.challenge import Prompt
from agent.door.codes import QrCodes
from agent.door.feedback import Feedback, Shown
from agent.door.lines import Input, InputSpec, KeptLine, Lines, OutputLine, OutputSpec
from agent.door.on_the_spot import ButtonAct, MovesAct, OnTheSpot
from agent.door.osdp import OsdpPanels, Panel, Panels, PanelSpec
from agent.door.outputs import Outputs, PulseSpec
from agent.door.rights import Rights, TokenUse
from agent.door.rules import Rule, Rules
from agent.door.token import Carried, TokenAct
from agent.door.verification import Verification
from agent.errors import DeviceLostError, PosternError, VerificationError
from agent.gallery.references import References
from agent.match.records import Match
from agent.protocol.subject import SubjectId
from agent.unit.cards import read_panel_key

OnProblem = Callable[[PosternError], None]


def rights_path(config: Config) -> Path:
    """Where the record of used rules lies: beside the outbox."""
    return config.outbox.path.with_name("rights.db")


def make_gate(config: Config) -> Gate:
    """Who may be embedded at this unit."""
    activation = config.activation
    limits = FaceLimits(activation.min_face_px, activation.max_turn_degrees)
    if isinstance(activation, ButtonActivation):
        return ButtonGate(zone=activation.name, window_ns=activation.window_s * 1_000_000_000, limits=limits)
    return ZoneGate(
        zone=activation.name, polygon=activation.polygon, limits=limits, dwell_ns=activation.dwell_ms * 1_000_000
    )


def buttons(config: Config) -> list[tuple[str, ButtonInput]]:
    """What people press at a unit, with the names of the places in the file; the enrolment's own is the last."""
    found: list[tuple[str, ButtonInput]] = []
    if isinstance(config.activation, ButtonActivation):
        inputs = enumerate(config.activation.inputs)
        found += [(f"activation.inputs[{n}]", one) for n, one in inputs if not isinstance(one, TokenInput)]
    if config.enrolment.button is not None:
        found.append(("enrolment.button", config.enrolment.button))
    return found


def make_input(config: Config, one: ButtonInput, lines: Lines, clock: Clock, request: Request) -> Input:
    """Open one input; raises DeviceLostError and, for the presses of a scene, ConfigError."""
    match one:
        case GpioInput():
            return lines.open_input(InputSpec(one.chip, one.line, one.bias, one.active_low, one.debounce_ms))
        case KeyInput():
            return lines.open_key(one.device, one.key)
        case CommandInput():
            return request
        case _:
            from agent.camera.scene.script import load_script  # noqa: PLC0415 - no unit at a door has scenes

            script = config.camera.script if isinstance(config.camera, SceneCamera) else None
            return ScenePresses(load_script(script).presses if script is not None else (), clock)


def pulses(config: Config) -> dict[str, PulseSpec]:
    """The output lines of a unit."""
    return {
        one.name: PulseSpec(
            OutputSpec(one.chip, one.line, one.active_low, longest_ms=one.pulse_ms), one.pulse_ms * 1_000_000
        )
        for one in config.outputs
        if isinstance(one, GpioOutput)
    }


def panels(config: Config) -> dict[str, PanelSpec]:
    """The controllers to which a unit is a reader, by the names of the outputs. Raises KeyStoreError."""
    return {
        one.name: PanelSpec(one.device, one.address, one.baud, read_panel_key(one.key_file))
        for one in config.outputs
        if isinstance(one, OsdpOutput)
    }


def lights(config: Config) -> dict[str, OutputSpec]:
    """The lines of the feedback by their names in the file."""
    shown: dict[str, Light | None] = {
        "granted": config.feedback.granted,
        "wait": config.feedback.wait,
        "look": config.feedback.look,
    }
    return {name: OutputSpec(one.chip, one.line, one.active_low) for name, one in shown.items() if one is not None}


def takes_requests(config: Config) -> bool:
    """Whether a signed command may open the window."""
    return any(isinstance(one, CommandInput) for _, one in buttons(config))


def reads_tokens(config: Config) -> bool:
    """Whether people may hold up a token."""
    act = config.activation
    return isinstance(act, ButtonActivation) and any(isinstance(one, TokenInput) for one in act.inputs)


def asks_for_moves(config: Config) -> bool:
    """Whether people who enrol turn their heads as asked, because there is no button that only they could press."""
    return all(isinstance(one, CommandInput) for _, one in buttons(config))


def make_spot_act(config: Config, random: Callable[[int], bytes]) -> OnTheSpot:
    """The act of one enrolment."""
    return MovesAct(random) if asks_for_moves(config) else ButtonAct()


class Presses:
    """The inputs of a unit, and which of them opens its window."""

    def __init__(self, config: Config, lines: Lines, *, clock: Clock, request: Request, on_problem: OnProblem) -> None:
        """Open all; raises DeviceLostError."""

        def opened(wanted: Sequence[ButtonInput]) -> Inputs:
            makers = [partial(make_input, config, one, lines, clock, request) for one in wanted]
            return Inputs(makers, clock=clock, on_problem=on_problem)

        own = config.enrolment.button
        inputs = config.activation.inputs if isinstance(config.activation, ButtonActivation) else ()
        self._window = opened([one for one in inputs if not isinstance(one, TokenInput)])
        try:
            self._enrolment = opened((own,) if own is not None else ())
        except PosternError:
            self._window.close()
            raise
        self._has_own = own is not None

    def look(self) -> tuple[Press | None, bool]:
        """What opens the window, and whether the button by which people enrol was pressed."""
        window, own = self._window.look(), self._enrolment.look()
        on_the_spot = own is not None if self._has_own else window is not None and window.on_the_spot
        return window, on_the_spot

    def close(self) -> None:
        self._window.close()
        self._enrolment.close()


class Door:
    """See the module. Everything is opened at once: what cannot be used is told before the unit runs."""

    def __init__(
        self,
        config: Config,
        gate: Gate,
        rights: Rights,
        lines: Lines,
        *,
        clock: Clock,
        verification: Verification,
        to_panels: Panels | None = None,
        card_of: Callable[[SubjectId], bytes] | None = None,
        check_token: Callable[[bytes], Carried] | None = None,
        on_problem: OnProblem,
    ) -> None:
        """Raises DeviceLostError, KeyStoreError and ConfigError.

        ``check_token`` takes what people hold up, where they may; ``card_of`` gives somebody's number at a controller.
        """
        self._gate, self._clock = gate, clock
        self._verification = verification
        self._prompt: Prompt | None = None
        self._token = None if check_token is None else TokenAct(QrCodes(), partial(self._take, check_token), clock)
        self.request = Request()
        self._without_wire = frozenset(one.name for one in config.outputs if isinstance(one, EventOutput))
        self.outputs = Outputs(pulses(config), lines, clock=clock, on_problem=on_problem)
        opened: dict[str, OutputLine] = {}
        self._panels: dict[str, Panel] = {}
        self._cards = {one.name: one.card for one in config.outputs if isinstance(one, OsdpOutput)}
        self._card_of = card_of
        try:
            for name, reader in panels(config).items():
                self._panels[name] = (to_panels or OsdpPanels()).open_panel(reader, clock, on_problem)
            for name, spec in lights(config).items():
                opened[name] = KeptLine(lines, spec, clock)
            self._presses = Presses(config, lines, clock=clock, request=self.request, on_problem=on_problem)
        except PosternError:
            self.outputs.close()
            for panel in self._panels.values():
                panel.close()
            for line in opened.values():
                line.close()
            raise
        self._feedback = Feedback(
            _by_shown(opened),
            config.feedback.text,
            press=isinstance(gate, ButtonGate),
            clock=clock,
            on_problem=on_problem,
        )
        self._rules = Rules(
            [
                Rule(
                    one.name,
                    when=one.when,
                    zone=one.zone,
                    needs_liveness=one.liveness == "passed",
                    cooldown_s=one.cooldown_s,
                    then=one.then,
                    single_use=one.single_use,
                )
                for one in config.rules
            ],
            rights,
            on_problem=on_problem,
        )

    def between_frames(self, *, enrolling: bool, press: Callable[[int], None]) -> bool:
        """Look at inputs and open questions; whether somebody acted anew, so that what was seen before is void.

        While somebody enrols a press is theirs, and ``press`` gets its time.
        """
        self._verification.expire()
        window, on_the_spot = self._presses.look()
        now_ns = self._clock.monotonic_ns()
        if enrolling:
            if on_the_spot:
                press(now_ns)
            return False
        ends_ns = self._verification.take()
        acted = ends_ns is not None or window is not None
        over = self.carried is not None and not self._gate.waits(now_ns)
        ended = None if self._token is None else self._token.ended()
        dropped = (acted or over or ended is not None) and self.drop_token()
        if ended is not None and not acted:
            self._feedback.refuse(ended)
        if acted:
            self._feedback.begin_act()
        if acted and isinstance(self._gate, ButtonGate):
            self._gate.open_window(now_ns, None if ends_ns is None else ends_ns - now_ns)
        return acted or dropped

    def read(self, picture: Picture) -> bool:
        """Look for a token that somebody holds up; whether one was taken: they act, and are compared with it alone."""
        now_ns = self._clock.monotonic_ns()
        if self._token is None or self._verification.subject is not None:
            return False
        found = self._token.look(picture)
        if isinstance(found, str):
            self._feedback.refuse(found)
        if not isinstance(found, Carried) or not isinstance(self._gate, ButtonGate):
            return False
        self._feedback.begin_act()
        self._feedback.acting()
        self._gate.open_window(now_ns)
        return True

    @property
    def carried(self) -> References | None:
        """The one reference that is compared with, while somebody's token counts."""
        held = None if self._token is None else self._token.carried
        return None if held is None else held.references

    def _take(self, check: Callable[[bytes], Carried], data: bytes) -> Carried:
        """What a token brought, if it could still open anything; VerificationError otherwise."""
        carried = check(data)
        if self._rules.used_up(carried.token_id):
            carried.wipe()
            raise VerificationError("used", "this token was used before, and counts once: ask the desk for a new one")
        return carried

    def drop_token(self) -> bool:
        """End the window that a token opened, and overwrite what it carried; whether there was one."""
        dropped = self._token is not None and self._token.drop()
        if dropped and isinstance(self._gate, ButtonGate):
            self._gate.shut()
        return dropped

    def see(self, admitted: int) -> None:
        """How many faces are admitted in this frame; nothing but whether there is one is used."""
        if admitted:
            self._verification.acting()
            self._feedback.acting()

    def announce(self, text: str | None) -> None:
        """Show ``text`` on the display while nobody is there to be told anything; from any thread."""
        self._feedback.announce(text)

    def prompt(self, prompt: Prompt | None) -> None:
        """What somebody is to do whose liveness is checked, from now on; None when there is nothing."""
        self._prompt = prompt

    def show(self, asked: str | None) -> None:
        """Show what there is to show at this moment; ``asked`` is what somebody who enrols is told, if anything."""
        self._feedback.guide(self._prompt if asked is None else ASKED.get(asked, "front"))
        for panel in self._panels.values():
            if panel.granted():
                self._feedback.granted()
        self._feedback.tick()

    def matched(self, match: Match) -> tuple[str, ...]:
        """Open what the rules open for ``match``; the outputs without a wire, for the event to name."""
        verified = self._verification.matched(match.subject)
        if isinstance(self._gate, ButtonGate):
            self._gate.shut()  # the act has had its effect
        held = None if self._token is None else self._token.carried
        use = None if held is None else TokenUse(held.token_id, held.expires_at)
        names = self._rules.outputs(match, verified=verified, token=use)
        for name in names:
            if (panel := self._panels.get(name)) is not None:
                panel.report(self._card(name, match.subject))  # what it says to that is shown when it says it
        wired = [name for name in names if name not in self._panels]
        granted = tuple(name for name in wired if name in self._without_wire or self.outputs.pulse(name))
        if granted:
            self._feedback.granted()
        return tuple(name for name in granted if name in self._without_wire)

    def _card(self, name: str, subject: SubjectId) -> bytes:
        card = self._cards[name]
        return self._card_of(subject) if card == "person" and self._card_of is not None else bytes.fromhex(card)

    def close(self) -> None:
        """Switch everything off and let go of it; an open question is answered."""
        self.drop_token()
        for panel in self._panels.values():
            panel.close()
        self._panels = {}
        self.outputs.close()
        self._verification.cancel()
        self._presses.close()
        self._feedback.close()


ASKED: Mapping[str, Shown] = {"press": "press", "left": "left", "right": "right", "up": "up", "down": "down"}


def _by_shown(opened: dict[str, OutputLine]) -> dict[Shown, list[OutputLine]]:
    """Which line is on while what is shown; ``again`` and ``ready`` are dark."""
    shown: dict[Shown, list[OutputLine]] = {}
    if "granted" in opened:
        shown["granted"] = [opened["granted"]]
    if "wait" in opened:
        shown["wait"] = [opened["wait"]]
    if "look" in opened:
        asked: tuple[Shown, ...] = ("press", "front", "left", "right", "up", "down")
        shown.update({one: [opened["look"]] for one in asked})
    return shown


def switch_off(config: Config, lines: Lines) -> list[str]:
    """Take every output line, which switches it off, and let go of it; what could not be done, in sentences."""
    problems = []
    for name, spec in [*((name, one.line) for name, one in pulses(config).items()), *lights(config).items()]:
        try:
            lines.open_output(spec).close()
        except DeviceLostError as error:
            problems.append(f"{name}: {error}")
    return problems
