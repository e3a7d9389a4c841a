# SPDX-License-Identifier: Apache-2.0
"""The notice that people read before they enrol, made from the configuration so that it says what the unit does.

What it must say: who, purpose, method, retention, impact and rights (GDPR art. 13; CAC and MPS order 19 of 2025,
art. 5; 740 ILCS 14/15(b)). A consent record holds the digest of its terms, so a unit that does something else than
what a person read does not enrol them. The heading is left out of the digest: it names one unit, a consent several.
"""

from __future__ import annotations

import hashlib

from agent.config.door import OsdpOutput, TokenInput
from agent.config.schema import ButtonActivation, Config, ZoneActivation
from agent.errors import ConfigError
from agent.protocol.names import NoticeId

HEADING = """\
NOTICE {version}: {name} recognises the faces of people who asked for it

Where        {name} ({site}/{unit})
"""

# Above the terms: a challenge changes nothing of what is kept, and who consented before it was required has consented.
LIVENESS = """\
Asked here   You are asked to turn your head. That stops most flat pictures of you, on paper or a tablet; it does not
             stop masks, bent paper, films that guess what is asked, live forgeries, or pictures that are put into the
             camera's line. How often it is deceived was never measured with people, so no rate is claimed.
"""
PASSIVE = """\
             Meanwhile a program looks whether paper or a screen is shown. It keeps nothing, and can be wrong.
"""

# Above the terms as well: whoever consented at the desk and brings no token is treated as before.
CODE = """\
With a code  You may bring a code that holds your own reference, sealed to this operator's devices. It is read when you
             hold it up, compared with you alone and overwritten within a minute. Nothing of it is stored here but its
             number until it ends, where it counts once. Keep it as you keep a key; if you lose it, have it revoked:
             {operator}
"""

# Likewise above the terms: what it shows can be nobody's face.
CONSOLE = """\
Installers   Whoever installs or looks after this device can have it show what the camera sees, for a limited time, in a
             picture of 48 pixels with every face covered.
"""

# Within the terms: who consented without it did not agree to a number that stays.
CONTROLLER = """
             The door's own controller is told a number that stands for you and stays the same. It decides what opens,
             and may keep when it was told: ask its operator for how long."""

TERMS = """\
Operated by  {operator}
Purpose      {purpose}
How          A camera finds faces in its picture. Only when you {act}
             are 128 numbers computed from your face and compared with the references of people who enrolled.
             If you are not enrolled, nothing is stored, counted or sent.
If you       Several captures are turned into one reference, stored encrypted in this device. No picture is stored.
enrol        When you are recognised, the device tells its operator's systems that an enrolled person was here, under
             {subject}{presence}.{controller}
How long     Until you withdraw; at the latest {retention_days} days after you were last recognised here, and never
             longer than your consent says. It is then destroyed, and you can have a signed receipt.
Your choice  Enrolment is voluntary. Instead, at no cost to you: {alternative}
Your rights  You may ask what is held about you, withdraw, and have it erased, at any time and at once: {operator}
             You may complain to the data protection authority.
Risks        Recognition can be wrong in both directions, and not equally often for all people. Ask for the error rates.
"""


def make_notice(config: Config) -> str:
    """Write the notice of this unit; ConfigError when the configuration does not say who answers for it."""
    unit = config.unit
    heading = HEADING.format(version=config.notice.version, name=unit.name, site=unit.site, unit=unit.id)
    terms = make_terms(config)
    code = CODE.format(operator=_line(config.notice.operator or "")) if _takes_tokens(config) else ""
    console = CONSOLE if config.console is not None else ""
    asked = LIVENESS if config.liveness == "require" else ""
    looks = PASSIVE if "passive" in config.liveness_parts else ""
    return heading + asked + looks + code + console + terms


def make_terms(config: Config) -> str:
    """Write what people agree to: everything below the heading."""
    operator, alternative = config.notice.operator, config.notice.alternative
    if operator is None or alternative is None:
        raise ConfigError(
            "the configuration does not say who answers for this unit and which way in needs no face: "
            "set notice.operator and notice.alternative, there is no notice without them"
        )
    zone = isinstance(config.activation, ZoneActivation)
    pseudonym = config.events.subject == "pseudonym"
    return TERMS.format(
        operator=_line(operator),
        purpose=_line(config.purpose),
        act="step up and face the camera" if zone else _act(config),
        subject="a name of random digits that changes every week" if pseudonym else "a name that they alone can read",
        presence=", and when you left" if config.events.presence else "",
        controller=CONTROLLER if names_people_at_a_controller(config) else "",
        retention_days=config.gallery.retention_days,
        alternative=_line(alternative),
    )


def names_people_at_a_controller(config: Config) -> bool:
    """Whether an access controller gets a number for each person."""
    return any(isinstance(one, OsdpOutput) and one.card == "person" for one in config.outputs)


def _takes_tokens(config: Config) -> bool:
    act = config.activation
    return isinstance(act, ButtonActivation) and any(isinstance(one, TokenInput) for one in act.inputs)


def _act(config: Config) -> str:
    """By what a window opens. Where a button does, its words stay: they are part of what people agreed to."""
    act = config.activation
    only_code = isinstance(act, ButtonActivation) and all(isinstance(one, TokenInput) for one in act.inputs)
    return "hold up your code" if only_code else "press the button"


def notice_id(config: Config) -> NoticeId:
    """Version and digest by which a consent record names the notice; raises ConfigError as ``make_terms``."""
    digest = hashlib.sha256(make_terms(config).encode()).hexdigest()
    return NoticeId(config.notice.version, "sha256:" + digest)


def _line(text: str) -> str:
    """Text of the configuration on one line."""
    return " ".join(text.split())
