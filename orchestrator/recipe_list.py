"""Finds the recipes that come with the package: configs to start from."""

from dataclasses import dataclass
from importlib.resources import files

from infra.errors import ConfigError

PACKAGE = "orchestrator.recipes"
SUFFIX = ".yaml"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A config to start from; its first line says what it is."""

    name: str
    text: str

    @property
    def summary(self) -> str:
        """What it is, in a line."""
        return self.text.splitlines()[0].removeprefix("# ")


def recipes() -> list[Recipe]:
    """All recipes, by name."""
    found = [entry for entry in files(PACKAGE).iterdir() if entry.name.endswith(SUFFIX)]
    return sorted(
        (Recipe(entry.name.removesuffix(SUFFIX), entry.read_text(encoding="utf-8")) for entry in found),
        key=lambda recipe: recipe.name,
    )


def recipe(name: str) -> Recipe:
    """One recipe. Raises ConfigError for a name that there is not."""
    known = {each.name: each for each in recipes()}
    if name not in known:
        raise ConfigError(
            f"There is no recipe {name!r}.", f"The recipes are {', '.join(known)}.", "Run `diptych recipes`."
        )
    return known[name]
