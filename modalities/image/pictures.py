"""One picture of the user's own, read: grey values as they are meant, whatever the file's format.

A value is divided by what the format's depth can hold (255, 4095 or 65535), never by the picture's own maximum: a dark
16-bit picture stays dark. Cameras' orientation tags are applied, palettes looked up, transparent places lie on black.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnidistill.data.folder import regular, shown
from omnidistill.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""Pillow's names, and all it may take a file for: some of its readers start other programs."""
LARGEST = 1 << 29  # bytes of a file
PIXELS = 1 << 26  # of a picture: 8192 x 8192
ORIENTATION = 274  # tag of cameras; from 5 on the picture is turned by a quarter
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF


def read_picture(file: str | Path, side: int | tuple[int, int], channels: int = 1) -> NDArray[np.uint8]:
    """uint8 [side side]: the picture's central square in grey, shrunk by averaging; of a `side` (h, w) the largest part
    of that shape, and of 3 channels uint8 [3 h w] in red, green and blue.

    Raises:
        UserError: missing, no regular file, no picture, damaged, too large (by its head, before anything is decoded),
            smaller than `side`, of several pictures, or of numbers without a known scale.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    file = Path(file)
    height, width = (side, side) if isinstance(side, int) else side
    if not regular(file, LARGEST):
        raise UserError(f"the picture {shown(file)} is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd tags; what is wrong with pixels is an error
            with Image.open(file, formats=FORMATS) as opened:
                _check(opened, file, height, width)
                if opened.format == "PNG":
                    with Image.open(file, formats=FORMATS) as twin:
                        twin.verify()  # its checksums, which decoding does not look at
                opened.load()
                picture = ImageOps.exif_transpose(_eight_bits(opened, file))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
        picture = picture.convert("L" if channels == 1 else "RGB")
        picture = ImageOps.fit(picture, (width, height), method=Image.Resampling.BOX)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{shown(file)} is no picture that is read ({', '.join(FORMATS)})") from error
    except Exception as error:  # decoders raise what they please at damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read the picture {shown(file)}: {reason}") from error
    return np.asarray(picture) if channels == 1 else np.asarray(picture).transpose(2, 0, 1)


def _check(opened: Any, file: Path, least_height: int, least_width: int) -> None:
    """What the head of a file says, before its pixels are decoded."""
    width, height = opened.size
    if width * height > PIXELS:
        raise UserError(
            f"{shown(file)} is {width}x{height} pixels, more than the {PIXELS} that are read; shrink it"
        )
    turned = opened.getexif().get(ORIENTATION, 1) >= 5
    if (
        (height < least_width or width < least_height)
        if turned
        else (width < least_width or height < least_height)
    ):
        least = f"{least_width}x{least_height}"
        raise UserError(
            f"{shown(file)} is {width}x{height} pixels, smaller than {least}; leave it out or enlarge it"
        )
    # A telephone's MPO holds its picture first and a preview of it behind.
    if opened.format != "MPO" and (count := getattr(opened, "n_frames", 1)) > 1:
        raise UserError(f"{shown(file)} holds {count} pictures; save them one by one")


def _eight_bits(opened: Any, file: Path) -> Any:
    """The picture with 8 bits a channel, keeping what orientation and transparency are read from.

    Pillow cuts deeper greys at 255 instead of scaling them; deeper colours it scales itself.
    """
    from PIL import Image

    if not opened.mode.startswith(("I", "F")):
        return opened
    values = np.asarray(opened)
    tags = getattr(opened, "tag_v2", {})
    bits = int(tags[BITS][0]) if BITS in tags else 16
    kind = int(tags[SAMPLE_FORMAT][0]) if SAMPLE_FORMAT in tags else 1  # 1 unsigned, 2 signed, 3 a float
    if opened.mode.startswith("F"):
        top = 1.0
        low, high = (
            (float(values.min()), float(values.max())) if np.isfinite(values).all() else (np.nan, np.nan)
        )
        if not 0.0 <= low <= high <= 1.0:
            raise UserError(
                f"{shown(file)} holds fractions from {low:g} to {high:g}, of which none is white; scale them to 0 ... 1"
            )
    else:
        if kind == 1 and values.dtype == np.int32:
            values = values.view(np.uint32)
        if values.min() < 0:
            raise UserError(f"{shown(file)} holds negative values; save it with unsigned ones")
        top = float(2 ** (bits - (kind == 2)) - 1)
    grey = values.astype(np.float64) / top
    if tags.get(PHOTOMETRIC) == 0:
        grey = 1.0 - grey  # 0 is white
    transparent = opened.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 0.0
    picture = Image.fromarray((grey * 255.0).round().clip(0, 255).astype(np.uint8))
    picture.getexif().update(opened.getexif())
    return picture
