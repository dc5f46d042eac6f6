"""A recipe: the options of `bitlens train` behind a published figure, as one TOML file in `recipes/`.

It has a `title`; the `source`, an arXiv number, where there is a paper; `twin`, the recipe of the network that it is
fine-tuned from, if any; and a table `[options]`, named as on the command line without the dashes in front.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES_FOLDER = Path(__file__).parent / "recipes"
"""Where the recipes lie that come with bitlens."""

_SUFFIX = ".toml"
_LARGEST_FILE = 64 * 1024
_ENTRIES = frozenset({"title", "source", "twin", "options"})
_OF_THE_COMMAND = frozenset({"output", "resume", "recipe", "recipes", "twin", "json"})


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says.

    Parameters
    ----------
    name : str
        Its file's name without the suffix.
    title : str
        What it trains, in one line.
    source : str or None
        The paper (arXiv number) whose result it follows.
    twin : str or None
        The recipe of the full-precision network that it fine-tunes.
    options : mapping of str to (str, int, float or bool)
        Options of `bitlens train` by their long names without the leading dashes.
    """

    name: str
    title: str
    source: str | None
    twin: str | None
    options: Mapping[str, str | int | float | bool]


def recipe_names() -> tuple[str, ...]:
    """Give the names of the recipes that come with bitlens, sorted."""
    return tuple(sorted(path.stem for path in RECIPES_FOLDER.glob(f"*{_SUFFIX}")))


def read_recipe(name_or_file: str) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    name_or_file : str
        One of `recipe_names()`, or the path of a `.toml` file.

    Returns
    -------
    Recipe
        What it says; whether the options exist is `options_of`'s question.

    Raises
    ------
    BitlensError
        If there is no such recipe, or the file is not one.
    """
    if name_or_file.endswith(_SUFFIX):
        path = Path(name_or_file)
    elif name_or_file in recipe_names():
        path = RECIPES_FOLDER / (name_or_file + _SUFFIX)
    else:
        raise BitlensError(
            f"there is no recipe {name_or_file!r}: choose one of {', '.join(recipe_names())}, or give a .toml file"
        )
    content = read_at_most(path, _LARGEST_FILE, "give a .toml file", what="the recipe")
    try:
        return _recipe_from(path.stem, tomllib.loads(content.decode()))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BitlensError(f"{path} is not a recipe ({error}): see docs/training.md for the form") from error


def options_of(recipe: Recipe, add_arguments: Callable[[argparse.ArgumentParser], None]) -> argparse.Namespace:
    """Give all options of `bitlens train` as the recipe has them; what it leaves out has its default.

    Parameters
    ----------
    recipe : Recipe
        What to read.
    add_arguments : callable
        Declares the options of `bitlens train`.

    Raises
    ------
    BitlensError
        If an option does not exist, has a value that it cannot have, or belongs to the command line alone.
    """
    words = ["--output", "."]  # where the run is written is for the command to say
    for name, value in recipe.options.items():
        if name in _OF_THE_COMMAND:
            raise BitlensError(f"recipe {recipe.name} sets {name!r}, which belongs on the command line: remove it")
        if value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}={value}"]
    parser = _Parser(recipe)
    add_arguments(parser)
    return parser.parse_args(words)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint names the recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(allow_abbrev=False, add_help=False)
        self._recipe = recipe

    def error(self, message: str) -> NoReturn:
        raise BitlensError(f"recipe {self._recipe.name}: {message}: give options of `bitlens train`")


def _recipe_from(name: str, content: Mapping[str, object]) -> Recipe:
    unknown = sorted(content.keys() - _ENTRIES)
    if unknown:
        raise ValueError(f"unknown entry {unknown[0]!r}")
    options = content["options"]
    if not isinstance(options, dict):
        raise TypeError("options is not a table")
    for option, value in options.items():
        if not isinstance(value, str | int | float | bool):
            raise TypeError(f"option {option!r} is neither text, number nor true or false")
    title = _text(content, "title")
    if title is None:
        raise KeyError("title")
    return Recipe(name, title, _text(content, "source"), _text(content, "twin"), options)


def _text(content: Mapping[str, object], entry: str) -> str | None:
    value = content.get(entry)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{entry} is not text")
    return value
