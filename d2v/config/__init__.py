"""Recipes: find, compose, check and print them. The only package that knows Hydra."""

from d2v.config.adopted import Adopted
from d2v.config.load import Loaded, as_yaml, flat, load_recipe
from d2v.config.shipped import ShippedRecipe, copy_recipe, find_recipe, shipped_recipes

__all__ = [
    "Adopted",
    "Loaded",
    "ShippedRecipe",
    "as_yaml",
    "copy_recipe",
    "find_recipe",
    "flat",
    "load_recipe",
    "shipped_recipes",
]
