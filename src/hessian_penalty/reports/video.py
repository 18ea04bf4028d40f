"""H.264 videos that any browser plays, written frame by frame."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from hessian_penalty.errors import UserError
from hessian_penalty.runs import atomic_path

_CRF = 23  # x264's constant rate factor: 23 shows no artefacts at this size, 18 doubles the file


def write_mp4(
    path: str | Path, frames: Iterable[UInt8[np.ndarray, "height width 3"]], *, frames_per_second: int = 30
) -> None:
    """Encode RGB frames of one even size as MP4 (H.264, 4:2:0, BT.709), index first so that it starts at once.

    Frames are taken one at a time and never kept: the memory does not grow with the length. Written under a
    temporary name and renamed at the end.

    Raises:
        UserError: there is no frame, or the width or height is odd.
    """
    with atomic_path(path) as temporary, av.open(temporary, "w", options={"movflags": "faststart"}) as container:
        stream = None
        for frame in frames:
            if stream is None:
                stream = _add_stream(container, frame, frames_per_second)
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            container.mux(stream.encode(picture))
        if stream is None:
            raise UserError("A video needs at least one frame, got none.")
        container.mux(stream.encode())


def _add_stream(container: Any, frame: NDArray[Any], frames_per_second: int) -> Any:
    height, width, _ = frame.shape
    if height % 2 or width % 2:
        raise UserError(f"A video frame must have even width and height, got {width}x{height}; pad it by one pixel.")
    # Without these tags a player guesses the matrix from the size, and colours shift.
    colours = "colorprim=bt709:transfer=bt709:colormatrix=bt709"
    options = {"crf": str(_CRF), "preset": "slow", "x264-params": colours}
    stream = container.add_stream("libx264", rate=frames_per_second, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    return stream
