# SPDX-License-Identifier: Apache-2.0
"""QR codes in the main picture, by zxing-cpp. What it reads are bytes of anybody; they are kept by nobody here."""

from __future__ import annotations

from agent.camera.base import Picture
from agent.errors import DeviceLostError

MAX_CODES = 32  # in one picture; what is no token costs some microseconds
MISSING = "zxing-cpp is missing: apt install python3-zxing-cpp (elsewhere pip install 'postern[token]')"


class QrCodes:
    """Reads the brightness of the full picture: a code of 65 modules needs 2.7 pixels a module (175 across)."""

    def __init__(self) -> None:
        """Raise DeviceLostError when the library is not installed."""
        try:
            import zxingcpp  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise DeviceLostError(f"no code can be read: {MISSING}") from error
        self._read, self._kinds = zxingcpp.read_barcodes, zxingcpp.barcode_formats_from_str("QRCode")

    def read(self, picture: Picture) -> list[bytes]:
        """The contents of the codes in view, at most ``MAX_CODES``."""
        luma = picture.luma((0, 0, picture.width, picture.height), 1)
        found = self._read(luma, formats=self._kinds, try_downscale=False)
        return [bytes(one.bytes) for one in found[:MAX_CODES]]
