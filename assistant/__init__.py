# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
One way of asking a model, for Python and for every command: [`load`] gives an [`Assistant`], which answers questions
about images, streams its answers, and holds conversations.
"""
