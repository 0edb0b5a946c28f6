"""Pictures of any mode and bit depth as grey 8-bit pictures; ``docs/how-to/ingest.md`` lists what each becomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageOps

from deepstreaks_dask.readers.fits_checks import UnreadableError
from deepstreaks_dask.readers.options import Polarity
from deepstreaks_dask.readers.polarity import tails
from deepstreaks_dask.readers.stretch import ZTF_STRETCH, develop

_DEEP_MODES = ("I", "F")
_LEVELS_OF_A_PICTURE = 16  # of 256, that the middle 98 % of a drawn picture span
_COLOUR_DIFFERENCE = 48  # levels between two channels: less is what JPEG makes of grey
_CLEAR_TAILS = 0.5
_EXIF_TURNED = range(2, 9)

Notes = list[tuple[str, str]]
"""What was changed, and the detail."""


@dataclass(frozen=True)
class Grey:
    """A grey picture.

    Attributes
    ----------
    picture : PIL.Image.Image
        Mode ``L``.
    notes : tuple of (str, str)
        What was changed on the way, and the detail.
    stretch : str
        Of pixels that were measured, not drawn: sources are dark then. Else empty.
    """

    picture: Image.Image
    notes: tuple[tuple[str, str], ...] = ()
    stretch: str = ""


def to_grey(picture: Image.Image, polarity: Polarity = "auto") -> Grey:
    """Make a picture grey with 8 bits.

    Parameters
    ----------
    picture : PIL.Image.Image
        Of any mode. Transparent pixels are painted as the sky, the median of the others; colours become grey by ITU-R
        BT.601; EXIF's rotation is carried out.
    polarity : {"auto", "dark", "bright"}
        Of more than 8 bits that are measured, not drawn: whether sources are fainter or brighter than the sky there.

    Returns
    -------
    Grey
        More than 8 bits are scaled to 8 where the middle 98 % of the pixels span 16 of the 256 levels at least, since
        the picture was drawn so; else the pixels are measured values, to be stretched as those of FITS.

    Raises
    ------
    UnreadableError
        If no pixel is opaque or has a number, or all are alike.
    """
    notes: Notes = []
    if picture.mode == "L" and "transparency" not in picture.info:
        return Grey(_turned(picture.convert("L"), notes, picture), tuple(notes))
    if picture.mode.startswith("I;16") or picture.mode in _DEEP_MODES:
        bits = 16 if picture.mode.startswith("I;16") else 32
        values = np.asarray(_turned(picture, notes))
        return _deep(values, bits, polarity, notes)
    grey = _flat(picture, notes)
    return Grey(_turned(grey, notes, picture), tuple(notes))


def _flat(picture: Image.Image, notes: Notes) -> Image.Image:
    """Make 8-bit pictures grey: colours, palettes, and transparency."""
    if picture.mode == "1":
        return picture.convert("L")
    if picture.has_transparency_data:
        whole = picture.convert("RGBA")
        alpha = np.asarray(whole.getchannel("A"))
        if (alpha < 255).any():
            if not (alpha > 0).any():
                raise UnreadableError("blank", "every pixel is transparent")
            _note_colours(whole.convert("RGB"), notes)
            grey = np.asarray(whole.convert("RGB").convert("L"), float)
            sky = float(np.median(grey[alpha == alpha.max()]))
            share = alpha / 255
            notes.append(
                ("transparent pixels painted as the sky", f"{int((alpha < 255).sum())} pixels")
            )
            return Image.fromarray(np.rint(grey * share + sky * (1 - share)).astype(np.uint8))
    if picture.mode == "LA":
        return picture.convert("L")
    if picture.mode not in ("L", "RGB", "CMYK"):
        picture = picture.convert("RGB")
    if picture.mode == "RGB":
        _note_colours(picture, notes)
    return picture.convert("L")


def _note_colours(picture: Image.Image, notes: Notes) -> None:
    red, green, blue = picture.split()
    most = max(
        ImageChops.difference(a, b).getextrema()[1] for a, b in ((red, green), (green, blue))
    )
    if most > _COLOUR_DIFFERENCE:  # type: ignore[operator]
        notes.append(("colours made grey", f"channels differ by {most} levels"))


def _turned(picture: Image.Image, notes: Notes, opened: Image.Image | None = None) -> Image.Image:
    """Turn a picture as EXIF says."""
    opened = opened or picture
    if "exif" not in opened.info:
        return picture
    turn = opened.getexif().get(0x0112, 1)
    if turn not in _EXIF_TURNED or opened.format == "TIFF":  # Pillow has turned that already
        return picture
    notes.append(("turned as EXIF says", f"orientation {turn}"))
    if picture is not opened:
        picture.info["exif"] = opened.info["exif"]
        picture.getexif()[0x0112] = turn
    return ImageOps.exif_transpose(picture)


def _deep(values: np.ndarray, bits: int, polarity: Polarity, notes: Notes) -> Grey:
    """Scale drawn pictures of more than 8 bits, and stretch measured ones."""
    floats = values.dtype.kind == "f"
    known = values[np.isfinite(values)].astype(float)
    if not known.size:
        raise UnreadableError("blank", "no pixel holds a number")
    low, high = known.min(), known.max()
    top = 1.0 if floats else 65535.0
    first, last = np.percentile(known, (1, 99))
    if low >= 0 and high <= top and (last - first) * 255 / top >= _LEVELS_OF_A_PICTURE:
        filled = np.where(np.isfinite(values), values, np.median(known))
        scaled = np.rint(filled * (255 / top)).astype(np.uint8)
        notes.append((f"{bits} bits scaled to 8", f"{low:g} to {high:g} of {top:g}"))
        return Grey(Image.fromarray(scaled), tuple(notes))
    negative = polarity == "dark" or (polarity == "auto" and _is_dark(known))
    grey = develop(-values.astype(float) if negative else values, ZTF_STRETCH, top_first=True)
    notes.append((f"{bits} bits stretched to 8", f"{low:g} to {high:g} by {ZTF_STRETCH}"))
    if negative:
        notes.append(("sources fainter than the sky", "stretched the other way round"))
    return Grey(Image.fromarray(grey), tuple(notes), ZTF_STRETCH)


def _is_dark(values: np.ndarray) -> bool:
    """Return whether sources among measured values are fainter than the sky."""
    middle = float(np.median(values))
    sigma = 1.4826 * float(np.median(np.abs(values - middle)))
    return tails(values, np.ones_like(values), middle, sigma) > _CLEAR_TAILS
