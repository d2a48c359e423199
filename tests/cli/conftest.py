# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""What the tests of several commands ask about."""

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def image(tmp_path_factory) -> str:
    """The file of a red square on white, whose name has a space."""
    path = tmp_path_factory.mktemp("images") / "red square.png"
    drawn = Image.new("RGB", (120, 80), "white")
    drawn.paste((220, 20, 20), (40, 20, 80, 60))
    drawn.save(path)
    return str(path)
