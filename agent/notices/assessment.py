# SPDX-License-Identifier: Apache-2.0
"""The impact assessment of one unit, filled in as far as the configuration knows; the rest is the operator's to answer.

Its parts are those of GDPR art. 35(7) and of CAC and MPS order 19 of 2025, art. 9. It is Markdown. What stands in
angle brackets has to be replaced by people: a program knows neither the place nor the law that applies there.
"""

# ruff: noqa: E501 - a row of a Markdown table is one line

from __future__ import annotations

import agent
from agent.config.camera import RtspCamera
from agent.config.schema import Config, ZoneActivation
from agent.notices.notice import make_notice, names_people_at_a_controller, notice_id

TEMPLATE = """\
# Impact assessment: {name} ({site}/{unit})

Made from the configuration of this unit by Postern {version}; notice {notice_version}, terms `{notice_digest}`.
Make it anew when the configuration changes. Replace everything in <angle brackets>; keep the report three years.

| | |
|---|---|
| Responsible | {operator} |
| Data protection officer | <name, or why none is needed> |
| Assessed by, on | <name, date> |
| Next review | <date; at the latest when purpose, place, model or policy change> |

## 1. What is done

Purpose: {purpose}

- **Who**: people who enrolled here with a recorded consent. People who pass by are detected as shapes; {activation}.
- **What is held**: per enrolled person one template of 128 numbers, encrypted; the consent record; the days of consent,
  enrolment and last use. No picture, no name, no score, nothing about people who are not enrolled.
- **How long**: until withdrawal or the end of the consent, at most 1095 days; {retention_days} days after the last use.
- **Who receives what**: `{host}` gets signed events for the audience `{audience}`: {subject}; the time in steps of
  {step} s{presence}. No picture, template or score leaves the unit.
- **Where**: on the unit itself. <Where the broker and the systems behind it stand, and under which law.>

## 2. Necessity and proportion

- Legal ground: explicit consent (GDPR art. 6(1)(a) and 9(2)(a)). <Why it is freely given: what becomes of those who say no.>
- The way that needs no face, at no cost: {alternative}
- Why a less intrusive means does not do: <badge, PIN, key: why not>
- If this is about employees, consent rarely holds: <statement of the works council or the authority>. Working time must not
  be measured with faces where other means serve (AEPD guide, November 2023).
- Children: under 16 the consent record needs a guardian's evidence. <Whether children come here at all.>
- Information: the notice below hangs at <place>, before the zone of the camera begins.

## 3. Risks to people, and what is done about them

| risk | what the unit does | what is left | accepted by |
|---|---|---|---|
| somebody is taken for somebody else | threshold for this gallery's size from a signed policy, the mean of several crops that agree, a margin | {doors} | <name> |
| some groups fail more often | the model card states measured rates | <measured here, with whom> | <name> |
| a photograph is shown | {shown} | {presented}: <second factor?> | <name> |
| the picture is replaced on its way | {injection} | <physical access to camera and cable> | <name> |
| the unit is stolen | encryption at rest; keys per person; revocation at the site | on a board without a locked key: whoever has the card has the gallery | <name> |
| movements are followed | {linkability} | times and doors of one person within an epoch | <name> |
| the use widens | purpose and terms are bound into each consent; another purpose needs new ones | <who decides> | <name> |
| erasure is incomplete | key over all keys replaced at each erasure; receipts; unsent events removed | old flash blocks, without their keys; <events already received: {audience}> | <name> |

## 4. Rights

Information: the notice. Access: `postern rights show`. Withdrawal and erasure: `postern rights withdraw` at the unit,
`postern withdraw` for all units of the site; both give signed receipts. Objection to a decision: <human path at this door>.

## 5. Decision

<Go ahead, go ahead with conditions, or ask the authority first (GDPR art. 36)> <name, date, signature>
{registration}
## Annex: the notice

```
{notice}```
"""

_REGISTRATION = """
In China: before the number of people whose face data is stored reaches 100 000, file with the provincial CAC office within
30 working days (order 19 art. 15). <Current number, over all sites of the operator.>
"""


NUMBER = "; to the access controller a number that stands for the person and stays the same"


def make_assessment(config: Config) -> str:
    """Write the assessment of this unit; ConfigError when the configuration does not say who answers for it."""
    events = config.events
    zone = isinstance(config.activation, ZoneActivation)
    pseudonym = events.subject == "pseudonym"
    identity, numbered = notice_id(config), names_people_at_a_controller(config)
    return TEMPLATE.format(
        name=config.unit.name,
        site=config.unit.site,
        unit=config.unit.id,
        version=agent.__version__,
        notice_version=identity.version,
        notice_digest=identity.digest,
        operator=config.notice.operator,
        purpose=" ".join(config.purpose.split()),
        activation=(
            "a face is measured only after its person stepped into the marked zone and faced the camera"
            if zone
            else "a face is measured only after a press of the button"
        ),
        retention_days=config.gallery.retention_days,
        host=config.broker.host,
        audience=events.audience,
        subject=(
            "a pseudonym that changes every week" if pseudonym else "a subject that is sealed to one consumer's key"
        ),
        step=events.time_resolution_s,
        presence=("; also when a person left" if events.presence else "") + (NUMBER if numbered else ""),
        alternative=config.notice.alternative,
        shown=(
            "the person has to turn the head as asked, in an order by chance"
            + ("; a network may refuse as well" if "passive" in config.liveness_parts else "")
            if config.liveness == "require"
            else "events say `liveness: not_checked`"
        ),
        presented=(
            "masks, bent prints to some share, films that guess the order, live forgeries, pictures put into the stream; "
            "no APCER is claimed before volunteers were measured"
            if config.liveness == "require"
            else "a good print can pass"
        ),
        doors="<what a false match opens, and who looks at it>",
        injection=(
            "nothing: a network camera's stream can be replaced by whoever controls the network"
            if isinstance(config.camera, RtspCamera)
            else "the camera is wired to the unit; recordings are refused in production"
        ),
        linkability=(
            "pseudonyms change every week and differ between audiences"
            if pseudonym
            else "subjects are sealed afresh for each event: the broker sees nothing stable"
        ),
        registration=_REGISTRATION,
        notice=make_notice(config),
    )
