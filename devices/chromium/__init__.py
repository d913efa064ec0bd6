"""A Chromium of this machine as a device: its storage, a page that runs bundles, and what serves it."""
