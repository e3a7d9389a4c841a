# SPDX-License-Identifier: Apache-2.0
"""A board that QEMU emulates, with a card in it; its network is this machine's loopback.

The kernel, the initial RAM disk and the command line are those on the card's boot partition. What starts them on a
Raspberry Pi is its firmware, and QEMU's own loader here.
"""

from __future__ import annotations

import socket
import subprocess
import time
from base64 import b64encode
from pathlib import Path
from typing import Final, Self

from tools.lib.image.card import Card

HOST: Final = "10.0.2.2"  # this machine, as QEMU's user network shows it
MEMORY_MIB: Final = 1024  # the smallest Raspberry Pi 4
CPUS: Final = 2
# What systemd gives the unit's service on an emulated processor beside other work; on a board a start takes a second.
PATIENCE: Final = "[Service]\nTimeoutStartSec=900\nTimeoutStopSec=300\n"
# The serial line of this board, its power button as a button like any other, and the time that an emulator needs: its
# unit did not come to feed its own watchdog within 15 seconds, beside a load of 15. The board's own is tried by itself.
EXTRA: Final = (
    "console=ttyAMA0 module_blacklist=gpio_keys"
    " systemd.default_timeout_start_sec=900 systemd.default_device_timeout_sec=900 systemd.show_status=false"
    " systemd.service_watchdogs=no"
    # systemd-debug-generator(8): a drop-in that is there before the first start
    f" systemd.set_credential_binary=systemd.unit-dropin.postern.service:{b64encode(PATIENCE.encode()).decode()}"
)


class Machine:
    """Runs within its ``with`` block, or until ``cut``."""

    def __init__(self, card: Card, console: Path) -> None:
        self._card, self.console = card, console
        self.ssh_port = _free_port()
        self.monitor = console.with_suffix(".monitor")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def start(self) -> None:
        """Power."""
        folder = self.console.parent / "boot"
        names = self._card.names()
        kernel = max(name for name in names if name.startswith("vmlinuz"))
        initrd = max(name for name in names if name.startswith("initrd"))
        self._card.take([kernel, initrd, "cmdline.txt"], folder)
        line = (folder / "cmdline.txt").read_text().strip()
        # fmt: off
        words = [
            "qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72", "-smp", str(CPUS), "-m", str(MEMORY_MIB),
            "-accel", "tcg,thread=multi", "-display", "none", "-no-reboot", "-serial", f"file:{self.console}",
            "-kernel", str(folder / kernel), "-initrd", str(folder / initrd), "-append", f"{line} {EXTRA}",
            "-drive", f"if=none,id=card,format=raw,file={self._card.file}",
            "-device", "virtio-blk-pci,drive=card,romfile=",
            "-netdev", f"user,id=lan,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22",
            "-device", "virtio-net-pci,netdev=lan,romfile=",
            "-device", "virtio-rng-pci,romfile=", "-rtc", "base=utc",
            # An emulator beside other work may not come to feed it in time.
            "-device", "i6300esb", "-action", "watchdog=none",
            "-qmp", f"unix:{self.monitor},server=on,wait=off",
        ]
        # fmt: on
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL)

    def cut(self) -> None:
        """No power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_for_end(self, timeout_s: float) -> bool:
        """Wait until it has switched itself off or starts again; False when it does not."""
        end = time.monotonic() + timeout_s
        while self.running and time.monotonic() < end:
            time.sleep(0.5)
        return not self.running

    def shown(self) -> str:
        """What stands on its serial line."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
