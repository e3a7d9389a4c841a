# SPDX-License-Identifier: Apache-2.0
"""Which tests answer for which room, and a copy of the checkout to do damage in."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]


class Room(NamedTuple):
    """``code`` as globs below ``agent``; ``tests`` as globs below ``tests``, the quickest first.

    ``started`` are tests that see nothing but a program which they start. What of it they reach is not known, and its
    cameras go on in their own time where the machine is busy: they are asked last, and about what no other reaches.
    """

    code: tuple[str, ...]
    tests: tuple[str, ...]
    started: tuple[str, ...] = ()


UNIT = (
    "unit/test_pipeline*.py", "unit/test_configured_parts.py", "unit/test_wiring*.py", "unit/test_door_*.py",
    "unit/test_command_log.py", "unit/test_enrolment_live.py",
    "unit/test_event_records.py", "unit/test_installers_day.py", "unit/test_key_rotation.py", "unit/test_loading.py",
    "unit/test_looking.py",
    "unit/test_measured_range.py", "unit/test_on_the_spot.py", "unit/test_scene_camera.py", "unit/test_start_log.py",
    "unit/test_bench.py", "unit/test_cli_aim.py", "unit/test_cli_doctor.py", "unit/test_cli_notify.py",
    "unit/test_cli_people.py", "unit/test_cli_users.py", "unit/test_config_rules.py", "unit/test_confirm_by_hand.py",
    "unit/test_console_desk.py", "unit/test_enrolment_by_hand.py", "unit/test_installed_again.py",
    "unit/test_invitation.py", "unit/test_scanned_invitation.py",
    "unit/test_renewed_by_the_service.py", "unit/test_resident.py", "unit/test_set_*.py",
    "unit/test_trial_of_settings.py", "unit/test_uplink_retained.py", "attack/test_console_pictures.py",
    "attack/test_door.py", "attack/test_one_wrong_answer.py", "attack/test_recorded_issue.py",
    "attack/test_replaced_reference.py", "attack/test_stolen_broker_key.py",
    "unit/test_verbs.py", "unit/test_verification.py", "unit/test_what_runs_out.py", "attack/test_erasure.py",
    "attack/test_passers_by.py", "attack/test_remote_enrolment.py", "attack/test_restored_files.py",
    "attack/test_tokens.py",
    "attack/test_withheld_events.py", "attack/test_wrong_time.py",
    "fault/test_pause_and_reload.py", "fault/test_seal_key_power_cut.py", "fault/test_withdrawal_full_disk.py",
    "attack/test_consent_binding.py", "attack/test_emptied_files.py", "attack/test_flapping_clock.py",
    "attack/test_foreign_policy.py", "attack/test_forged_refusal.py", "attack/test_lost_outbox.py",
    "attack/test_one_face_after_another.py", "fault/test_full_disk_of_the_stores.py",
    "fault/test_settings_power_cut.py", "unit/test_config_file.py", "unit/test_gallery_enrol.py",
    "unit/test_site_certificates.py", "unit/test_site_enrolment.py", "unit/test_site_kit.py", "unit/test_unexpected.py",
    "unit/test_zone_bounds.py", "contract/test_scenarios.py",
)  # fmt: skip
UNIT_STARTED = ("contract/test_commands_of_a_running_unit.py", "fault/test_service.py")

ROOMS = {
    "gate": Room(("detect/gate.py",), ("unit/test_gate.py", "unit/test_pipeline.py")),
    "pipeline": Room(("pipeline.py",), UNIT, UNIT_STARTED),
    "match": Room(
        ("match/*.py",),
        ("unit/test_match_*.py", "unit/test_measured_range.py", "attack/test_one_face_after_another.py",
         "unit/test_longest.py", "unit/test_pipeline.py"),
    ),
    "gallery": Room(
        ("gallery/*.py",),
        ("unit/test_gallery_*.py", "unit/test_enrolment_live.py", "unit/test_measured_range.py",
         "attack/test_template_*.py", "attack/test_consent_binding.py", "attack/test_wrong_time.py",
         "fault/test_gallery_full_disk.py", "unit/test_longest.py"),
    ),
    "outbox": Room(
        ("outbox/*.py",),
        ("unit/test_outbox_*.py", "attack/test_absent_auditor.py", "unit/test_event_*.py",
         "unit/test_configured_parts.py", "unit/test_site_enrolment.py", "unit/test_uplink_drain.py",
         "unit/test_resolve.py", "attack/test_recorded_issue.py", "fault/test_outbox_disk.py",
         "fault/test_outbox_power_cut.py", "attack/test_lost_outbox.py", "unit/test_rig.py"),
    ),
    "protocol": Room(
        ("protocol/*.py",),
        ("unit/test_event_*.py", "unit/test_response.py", "contract/test_vectors.py", "contract/test_event_schema.py",
         "unit/test_site_enrolment.py", "unit/test_resolve.py", "attack/test_event_*.py", "contract/test_topics.py",
         "unit/test_longest.py", "unit/test_issued.py", "unit/test_list_parts.py", "unit/test_invitation.py",
         "unit/test_uplink_health.py", "attack/test_granted_questions.py", "attack/test_tokens.py",
         "unit/test_key_rotation.py", "unit/test_set_by_the_service.py", "unit/test_subscribe_replay.py",
         "attack/test_stolen_site_service.py", "attack/test_restored_site.py", "attack/test_recorded_issue.py",
         "unit/test_withdraw.py", "unit/test_week_keys.py", "unit/test_wrong_files.py", "unit/test_refusal_words.py"),
    ),
    "unit": Room(("unit/*.py",), UNIT, UNIT_STARTED),
    "site": Room(
        ("site/*.py",),
        ("unit/test_site_*.py", "unit/test_withdraw.py", "unit/test_uplink_request.py", "attack/test_site_*.py",
         "attack/test_certificates.py", "attack/test_stolen_broker_key.py", "unit/test_key_rotation.py",
         "attack/test_flooded_site_service.py",
         "unit/test_set_*.py", "unit/test_renewed_by_the_service.py", "unit/test_list_parts.py",
         "unit/test_invitation.py", "unit/test_fleet_page.py", "unit/test_cli_site.py", "attack/test_restored_site.py",
         "attack/test_tokens.py", "attack/test_stolen_site_service.py", "attack/test_recorded_issue.py",
         "attack/test_forged_refusal.py", "attack/test_offered_certificate.py", "unit/test_week_keys.py",
         "contract/test_vectors.py"),
    ),
    "clock": Room(("clock.py",), ("unit/test_clock.py", "unit/test_timing.py", "attack/test_wrong_time.py",
                                     "attack/test_flooded_site_service.py")),
    "config": Room(
        ("config/*.py",),
        ("unit/test_config_*.py", "unit/test_set_from_afar.py", "unit/test_trial_of_settings.py",
         "unit/test_configured_parts.py", "unit/test_console_desk.py", "attack/test_own_pipeline.py",
         "unit/test_installers_day.py", "unit/test_zone_bounds.py", "attack/test_leaving_the_bounds.py"),
    ),
    "uplink": Room(
        ("uplink/*.py",),
        ("unit/test_uplink_*.py", "attack/test_command_rights.py", "attack/test_commands_on_broker.py",
         "attack/test_granted_questions.py",
         "fault/test_uplink_faults.py"),
    ),
    "mqtt": Room(
        ("mqtt/*.py",),
        ("unit/test_uplink_credentials.py", "attack/test_certificates.py", "unit/test_uplink_session.py"),
    ),
    "camera": Room(("camera/*.py",), ("unit/test_camera_*.py",)),
    "files": Room(
        ("disk/files.py", "keys.py"),
        ("fault/test_files_power_cut.py", "unit/test_keys.py", "unit/test_uplink_turns.py",
         "unit/test_installers_day.py", "attack/test_site_secrets.py",
         "attack/test_folder_of_the_service.py", "fault/test_site_power_cut.py", "fault/test_gallery_power_cut.py"),
    ),
}  # fmt: skip
MEASURED = ("gate", "match", "gallery", "outbox", "protocol", "unit", "site", "clock", "config")


def answering(room: str) -> list[str]:
    """Test files of a room, as paths below the checkout; in the order in which to run them."""
    return list(dict.fromkeys([*_found(ROOMS[room].tests), *starting(room)]))


def starting(room: str) -> list[str]:
    """Those of them that see nothing but a program which they start."""
    return _found(ROOMS[room].started)


def _found(globs: Iterable[str]) -> list[str]:
    return [str(path.relative_to(ROOT)) for glob in globs for path in sorted((ROOT / "tests").glob(glob))]


def room_of(file: str) -> str | None:
    """The room whose tests answer for ``agent/…``, where there is one; None for what lies elsewhere."""
    path = Path(file)
    if not path.is_relative_to("agent"):
        return None
    path = path.relative_to("agent")
    return next((name for name, room in ROOMS.items() if any(path.match(glob) for glob in room.code)), None)


def keep_like(folder: Path, *, made_below: str | None = None) -> str:
    """Make ``folder`` a copy of the checkout as it stands: tracked files and new ones, without what git ignores.

    What was copied before and is gone or has changed is removed from its folder ``made_below`` as well, where something
    else is made of the copies. Returns a digest of everything.
    """
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    names = sorted(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())
    before = folder / ".copied"
    known = before.read_text().split("\0") if before.exists() else []
    changed = [name for name in known if name not in names]
    for gone in changed:
        (folder / gone).unlink(missing_ok=True)
    digest = hashlib.sha256()
    for name in names:
        content = (ROOT / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
        if not (folder / name).exists() or (folder / name).read_bytes() != content:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
            changed.append(name)
    if made_below:
        for name in changed:
            (folder / made_below / name).unlink(missing_ok=True)
    before.write_text("\0".join(names))
    return digest.hexdigest()


def modules_of(room: str) -> list[str]:
    """Files of a room as paths below the checkout."""
    return sorted(str(path.relative_to(ROOT)) for glob in ROOMS[room].code for path in (ROOT / "agent").glob(glob))
