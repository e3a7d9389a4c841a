# SPDX-License-Identifier: Apache-2.0
"""The notice that people read before they enrol, made from the configuration so that it says what the unit does.

What it must say: who, purpose, method, retention, impact and rights (GDPR art. 13; CAC and MPS order 19 of 2025,
art. 5; 740 ILCS 14/15(b)). A consent record holds the digest of this text.
"""

from __future__ import annotations

import hashlib

from agent.config import Config, ZoneActivation

TEMPLATE = """\
NOTICE {version}: {name} recognises the faces of people who asked for it

Where        {name} ({site}/{unit})
Operated by  {operator}
Purpose      {purpose}
How          A camera finds faces in its picture. Only when you {act}
             are 128 numbers computed from your face and compared with the references of people who enrolled.
             If you are not enrolled, nothing is stored, counted or sent.
If you       Several captures are turned into one reference, stored encrypted in this device. No picture is stored.
enrol        When you are recognised, the device tells its operator's systems that an enrolled person was here, under
             a name of random digits that changes every week{presence}.
How long     Until you withdraw; at the latest {retention_days} days after you were last recognised here, and never
             longer than your consent says. It is then destroyed, and you can have a signed receipt.
Your choice  Enrolment is voluntary. Instead, at no cost to you: {alternative}
Your rights  You may ask what is held about you, withdraw, and have it erased, at any time and at once: {operator}
             You may complain to the data protection authority.
Risks        Recognition can be wrong in both directions, and not equally often for all people. Ask for the error rates.
"""


def make_notice(config: Config, *, operator: str, alternative: str) -> str:
    """Write the notice of this unit, with who answers for it and how to reach them, and the way that needs no face."""
    activation = config.activation
    act = "step up and face the camera" if isinstance(activation, ZoneActivation) else "press the button"
    return TEMPLATE.format(
        version=config.notice.version,
        name=config.unit.name,
        site=config.unit.site,
        unit=config.unit.id,
        operator=operator,
        purpose=" ".join(config.purpose.split()),
        act=act,
        presence=", and when you left" if config.events.presence else "",
        retention_days=config.gallery.retention_days,
        alternative=alternative,
    )


def digest(notice: str) -> str:
    """Digest of a notice as a consent record holds it."""
    return "sha256:" + hashlib.sha256(notice.encode()).hexdigest()
