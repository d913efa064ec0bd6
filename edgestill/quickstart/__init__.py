"""The quickstart: a smart home's requests and answers, made by a seed, and the recipe that learns them."""

from edgestill.quickstart.folder import RECIPE, write_quickstart
from edgestill.quickstart.generator import generate, write_dataset

__all__ = ["RECIPE", "generate", "write_dataset", "write_quickstart"]
