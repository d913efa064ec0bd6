"""Apps: a complete project around a bundle, for a phone, a board or a web page.

A template is a folder in ``templates``; a new one is found by its name, and nothing else changes.
"""

from edgestill.devices.apps.template import template_names
from edgestill.devices.apps.writing import App, write_app

__all__ = ["App", "template_names", "write_app"]
