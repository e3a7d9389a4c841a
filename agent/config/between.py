# SPDX-License-Identifier: Apache-2.0
"""What must hold between the sections of a configuration, whoever wrote them: each problem with its place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from agent.config.camera import FileCamera, GstreamerCamera, SceneCamera
from agent.config.check import Problem
from agent.config.console import refuse_address
from agent.config.door import GpioInput, GpioOutput, KeyInput, Light, OsdpOutput, SceneInput, TokenInput
from agent.config.drawn import refuse_bounds, refuse_zone
from agent.config.pipeline import refuse_pipeline
from agent.config.schema import ButtonActivation, Config, ZoneActivation
from agent.parse.strict_yaml import Place, dotted

BAUDS = (9600, 19_200, 38_400, 57_600, 115_200, 230_400)  # of OSDP (IEC 60839-11-5)
MIN_CHALLENGE_WINDOW_S = 30  # three turns and four pauses, with the longest times that each may take


def problems_of(config: Config) -> list[Problem]:
    """Everything that is wrong between the sections of ``config``; empty when it can be run."""
    return [
        *_provenance(config),
        *_notice(config),
        *_zone(config),
        *_view(config),
        *_subject(config),
        *_files(config),
        *_liveness(config),
        *_inputs(config),
        *_tokens(config),
        *_lines(config),
        *_rules(config),
        *_console(config),
    ]


def _provenance(config: Config) -> list[Problem]:
    """CEN/TS 18099: injection is not presentation; whoever can write a file could be anybody at this door."""
    if config.profile != "production":
        return []
    camera = config.camera
    if isinstance(camera, GstreamerCamera) and camera.pipeline:
        reason = refuse_pipeline(camera.pipeline)
        return [] if reason is None else [(("camera", "pipeline"), reason)]
    if isinstance(camera, FileCamera | SceneCamera):
        reason = (
            "a recorded or simulated camera shows whatever its file shows, so in production anybody who can write "
            "that file could pass for anybody; use a real camera, or 'profile: demo'"
        )
        return [(("camera",), reason)]
    return []


def _notice(config: Config) -> list[Problem]:
    """GDPR art. 13(1)(a), CAC and MPS order 19 of 2025 art. 5 and 10: a notice says who, and what else there is."""
    if config.profile != "production":
        return []
    told = {"operator": config.notice.operator, "alternative": config.notice.alternative}
    reason = "is missing: without it there is no notice, and without a notice nobody can consent"
    return [(("notice", name), reason) for name, text in told.items() if text is None]


def _zone(config: Config) -> list[Problem]:
    """The zone is one, and lies where the file lets zones lie."""
    zone = config.activation
    if not isinstance(zone, ZoneActivation):
        return []
    if zone.within is not None and (wrong := refuse_bounds(zone.within)) is not None:
        return [(("activation", "within"), wrong)]
    reason = refuse_zone(zone.polygon, zone.within)
    return [] if reason is None else [(("activation", "polygon"), reason)]


def _view(config: Config) -> list[Problem]:
    if config.detection.view == "zone" and not isinstance(config.activation, ZoneActivation):
        return [(("detection", "view"), "a button has no zone to look at: set it to 'picture', or leave it out")]
    return []


WAITS_IN_VAIN = (
    "it would never open: it waits for liveness, which is not checked; set 'liveness: require', or the rule's"
    " 'liveness' to \"unchecked: a photograph opens it\""
)


def _subject(config: Config) -> list[Problem]:
    if config.events.subject == "sealed" and config.events.consumer_key is None:
        return [(("events", "consumer_key"), "is missing: 'subject: sealed' needs the consumer's public key")]
    if config.events.subject == "pseudonym" and config.events.consumer_key is not None:
        return [(("events", "consumer_key"), "nothing is sealed to this key unless 'subject' is 'sealed'")]
    return []


def _liveness(config: Config) -> list[Problem]:
    """A challenge has to end before the window that it needs does, and is what tells flat from solid."""
    act, parts = config.activation, config.liveness_parts
    if "challenge" not in parts:
        return [(("liveness_parts",), "the other parts alone are too weak to let anybody in: add 'challenge'")]
    if len(set(parts)) < len(parts):
        return [(("liveness_parts",), "names a part twice: once is enough")]
    if config.liveness == "not_checked":
        reason = "nothing is checked: set 'liveness: require', or leave this out"
        return [(("liveness_parts",), reason)] if len(parts) > 1 else []
    if "depth" in parts and not isinstance(config.camera, SceneCamera):
        return [(("liveness_parts",), "this camera measures no depth, so nobody would pass: leave out 'depth'")]
    if not isinstance(act, ButtonActivation) or act.window_s >= MIN_CHALLENGE_WINDOW_S:
        return []
    reason = f"liveness: require takes its time: set {MIN_CHALLENGE_WINDOW_S} seconds or more"
    return [(("activation", "window_s"), reason)]


def _files(config: Config) -> list[Problem]:
    """Two stores in one file would destroy each other."""
    files = {
        ("gallery", "path"): config.gallery.path,
        ("audit", "path"): config.audit.path,
        ("outbox", "path"): config.outbox.path,
        ("match", "policy"): config.match.policy,
    }
    return [
        (place, f"is the same file as {'.'.join(other)}")
        for (other, first), (place, second) in combinations(files.items(), 2)
        if first == second
    ]


def _inputs(config: Config) -> list[Problem]:
    """A simulated button belongs to a simulated camera, and nobody enrols by a button that others press as well."""
    if isinstance(config.camera, SceneCamera):
        return []
    inputs = config.activation.inputs if isinstance(config.activation, ButtonActivation) else ()
    places: list[tuple[Place, object]] = [(("activation", "inputs", number), one) for number, one in enumerate(inputs)]
    places += [(("enrolment", "button"), config.enrolment.button)] if config.enrolment.button is not None else []
    places += [(("console", "button"), config.console.button)] if config.console and config.console.button else []
    reason = "is the button of a simulated scene, and the camera is none: take gpio or key"
    return [(place, reason) for place, one in places if isinstance(one, SceneInput)]


def _tokens(config: Config) -> list[Problem]:
    """A code can be photographed and a face printed: together they are worth no more than the check for liveness."""
    inputs = config.activation.inputs if isinstance(config.activation, ButtonActivation) else ()
    places = [("activation", "inputs", number) for number, one in enumerate(inputs) if isinstance(one, TokenInput)]
    problems: list[Problem] = []
    if places and config.liveness != "require":
        reason = "a photographed code and a print of its bearer would pass: set 'liveness: require' above"
        problems.append((places[0], reason))
    problems += [(place, "is there already: one is enough") for place in places[1:]]
    for number, rule in enumerate(config.rules):
        if rule.when == "token" and not places:
            reason = "nobody can bring a token: add '{kind: token}' to activation.inputs (of kind button)"
            problems.append((("rules", number, "when"), reason))
        if rule.single_use and rule.when != "token":
            problems.append((("rules", number, "single_use"), "only a token is used up: set 'when: token'"))
        if rule.when == "token" and rule.liveness != "passed":
            reason = "with a token liveness must pass: a photographed code and a print would open it"
            problems.append((("rules", number, "liveness"), reason))
    return problems


def _lines(config: Config) -> list[Problem]:
    """One line does one thing."""
    used: dict[tuple[object, ...], str] = {}
    problems: list[Problem] = []
    for place, one in _wires(config):
        line = (one.device, one.key) if isinstance(one, KeyInput) else (one.chip, one.line)
        name = dotted(place)
        if line in used:
            problems.append((place, f"uses the same line as {used[line]}: give each its own"))
        used.setdefault(line, name)
    return problems


def _wires(config: Config) -> Iterator[tuple[Place, GpioInput | KeyInput | GpioOutput | Light]]:
    if isinstance(config.activation, ButtonActivation):
        for number, button in enumerate(config.activation.inputs):
            if isinstance(button, GpioInput | KeyInput):
                yield ("activation", "inputs", number), button
    if isinstance(config.enrolment.button, GpioInput | KeyInput):
        yield ("enrolment", "button"), config.enrolment.button
    if config.console is not None and isinstance(config.console.button, GpioInput | KeyInput):
        yield ("console", "button"), config.console.button
    for number, output in enumerate(config.outputs):
        if isinstance(output, GpioOutput):
            yield ("outputs", number), output
    lights = {name: getattr(config.feedback, name) for name in ("granted", "wait", "look")}
    yield from ((("feedback", name), light) for name, light in lights.items() if light is not None)


def _console(config: Config) -> list[Problem]:
    """It listens in the local network alone, and a code that nobody can read opens nothing."""
    console = config.console
    if console is None:
        return []
    problems: list[Problem] = []
    if (reason := refuse_address(console.address)) is not None:
        problems.append((("console", "address"), reason))
    if console.button is not None and config.feedback.text is None:
        problems.append((("console", "button"), "shows its code on a display: name the display's file, feedback.text"))
    return problems


def _rules(config: Config) -> list[Problem]:
    """A rule names what there is; two of one name would share what people have used."""
    outputs = [one.name for one in config.outputs]
    problems: list[Problem] = [
        (("outputs", number, "name"), f"there is another output '{name}': give each its own name")
        for number, name in enumerate(outputs)
        if name in outputs[:number]
    ]
    named = [rule.name for rule in config.rules]
    for number, rule in enumerate(config.rules):
        if rule.name in named[:number]:
            problems.append((("rules", number, "name"), f"there is another rule '{rule.name}': give each its own name"))
        if rule.zone not in (None, config.activation.name):
            problems.append(
                (
                    ("rules", number, "zone"),
                    f"there is no such zone: the activation's name is '{config.activation.name}'",
                )
            )
        if config.liveness == "not_checked" and rule.liveness == "passed":
            problems.append((("rules", number), WAITS_IN_VAIN))
        known = ", ".join(outputs) or "none, add it under 'outputs'"
        problems += [
            (("rules", number, "then", position), f"there is no output '{name}'; there are: {known}")
            for position, name in enumerate(rule.then)
            if name not in outputs
        ]
    problems += [
        (("outputs", number, "baud"), f"no serial line has this speed: take one of {', '.join(map(str, BAUDS))}")
        for number, one in enumerate(config.outputs)
        if isinstance(one, OsdpOutput) and one.baud not in BAUDS
    ]
    lines = [(one.device, one.address) if isinstance(one, OsdpOutput) else None for one in config.outputs]
    problems += [
        (("outputs", number, "device"), "another output has this line: one reader has one")
        for number, line in enumerate(lines)
        if line is not None and line[0] in {other[0] for other in lines[:number] if other is not None}
    ]
    used = {name for rule in config.rules for name in rule.then}
    problems += [
        (("outputs", number), f"no rule opens '{name}': name it in a rule's 'then', or leave it out")
        for number, name in enumerate(outputs)
        if name not in used
    ]
    return problems
