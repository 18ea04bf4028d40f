"""A CLEVR-like scene as pixels, by Mitsuba 3: ground plane, soft area lights, plastic objects."""

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_penalty.data.clevr import Object, Scene
from hessian_penalty.errors import UserError

OBJECT_RADIUS = 0.9  # world units, of an object of size 1
SAMPLES_PER_PIXEL = 64  # stratified; see tests for the noise that is left


def _mitsuba() -> Any:
    try:
        import mitsuba
    except ImportError as error:
        raise UserError(
            f"Rendering needs Mitsuba, which cannot be imported ({error}): pip install 'hessian-penalty[render]'."
        ) from None
    # The scalar variant: the LLVM ones abort where the system's LLVM is too old, and are no faster at 64 pixels.
    if mitsuba.variant() != "scalar_rgb":
        mitsuba.set_variant("scalar_rgb")
        mitsuba.set_log_level(mitsuba.LogLevel.Error)
    return mitsuba


def mitsuba_version() -> str:
    """The renderer's version, on which the bytes of a picture depend.

    Raises:
        UserError: Mitsuba is not installed.
    """
    return str(_mitsuba().__version__)


def _rgb(*value: float) -> dict[str, Any]:
    return {"type": "rgb", "value": list(value)}


def _object(mi: Any, thing: Object) -> dict[str, Any]:
    transform = mi.ScalarTransform4f
    radius, place = OBJECT_RADIUS * thing.size, [thing.x, thing.y, 0]
    linear_rgb = [channel**2.2 for channel in colorsys.hsv_to_rgb(thing.hue, 0.85, 0.85)]
    material = {"type": "plastic", "diffuse_reflectance": _rgb(*linear_rgb)}
    if thing.shape == "sphere":
        return {"object": {"type": "sphere", "center": [*place[:2], radius], "radius": radius, "bsdf": material}}
    if thing.shape == "cube":
        half = 0.9 * radius
        stand = transform().translate([*place[:2], half]) @ transform().rotate([0, 0, 1], 30) @ transform().scale(half)
        return {"object": {"type": "cube", "to_world": stand, "bsdf": material}}
    top = [*place[:2], 2 * radius]
    lid = transform().translate(top) @ transform().scale(radius)
    return {
        "object": {"type": "cylinder", "p0": place, "p1": top, "radius": radius, "bsdf": material},
        "lid": {"type": "disk", "to_world": lid, "bsdf": material},
    }


def _area_light(mi: Any, origin: list[float], half_width: float, *radiance: float) -> dict[str, Any]:
    transform = mi.ScalarTransform4f
    aim = transform().look_at(origin=origin, target=[0, 0, 0], up=[0, 0, 1])
    return {
        "type": "rectangle",
        "to_world": aim @ transform().scale([half_width, half_width, 1]),
        "emitter": {"type": "area", "radiance": _rgb(*radiance)},
    }


def render_scene(scene: Scene, size: int, seed: int) -> NDArray[np.uint8]:
    """Render one scene; the same arguments give the same bytes.

    Returns:
        uint8 sRGB pixels, (size, size, 3).

    Raises:
        UserError: Mitsuba is not installed.
    """
    mi = _mitsuba()
    transform = mi.ScalarTransform4f
    objects = {
        f"{part}{index or ''}": shape
        for index, thing in enumerate(scene.objects)
        for part, shape in _object(mi, thing).items()
    }
    world = mi.load_dict(
        {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": 2},  # direct light only: no caustics, hence no fireflies
            "sensor": {
                "type": "perspective",
                "fov": 33,
                "to_world": transform().look_at(origin=[0, -8.2, 6.4], target=[0, -0.1, 0.35], up=[0, 0, 1]),
                "film": {
                    "type": "hdrfilm",
                    "width": size,
                    "height": size,
                    "rfilter": {"type": "box"},
                    "pixel_format": "rgb",
                    "component_format": "float32",
                },
                "sampler": {"type": "multijitter", "sample_count": SAMPLES_PER_PIXEL},
            },
            "ground": {
                "type": "rectangle",
                "to_world": transform().scale([60, 60, 1]),
                "bsdf": {"type": "diffuse", "reflectance": _rgb(0.42, 0.42, 0.42)},
            },
            "sky": {"type": "constant", "radiance": _rgb(0.35, 0.35, 0.36)},
            "fill": _area_light(mi, [6.0, -5.0, 6.0], 1.5, 2.5, 2.6, 2.8),
            "key": _area_light(mi, [-5.0, -4.0, 8.0], 1.2, 16.0, 15.6, 15.0),
            **objects,
        },
        optimize=False,  # else the order of the lights, and with it the noise, depends on memory addresses
    )
    pixels = mi.Bitmap(mi.render(world, seed=seed))
    srgb = pixels.convert(mi.Bitmap.PixelFormat.RGB, mi.Struct.Type.UInt8, srgb_gamma=True)
    return np.array(srgb)
