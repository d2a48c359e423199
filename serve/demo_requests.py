# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
What programs send to the demo in place of its page. Gradio would fetch a file that is named by an address, and print a
traceback for each value that has another shape than it expects.
"""

import gradio as gr

from flashsloth.image_reading_flashsloth import is_address


class CheckedBlocks(gr.Blocks):
    """Gradio's `Blocks`, which refuses what its page does not send in one line, and fetches and prints nothing."""

    async def preprocess_data(self, block_fn, inputs: list, *args, **options) -> list:
        """Gradio's own, which turns what was sent into the arguments of a function."""
        try:
            if any(map(names_an_address, inputs)):
                raise refusal("A file is named by an address, which is not fetched: upload the file.")
            values = await super().preprocess_data(block_fn, inputs, *args, **options)
            if any(value is None for value in values):
                raise refusal("The request lacks a value.")
        except gr.Error as error:
            error.print_exception = False  # it says what is wrong to whoever sent it
            raise
        except Exception as error:  # whatever a value of another shape leads Gradio to
            raise refusal("The request is none of this page's: reload the page.") from error
        return values


def refusal(message: str) -> gr.Error:
    """An error that the sender sees, and the terminal does not."""
    return gr.Error(message, print_exception=False)


def names_an_address(value) -> bool:
    """
    Whether a value, or one inside it, is a file whose path is an address.

    Args:
        value: As JSON has it.
    """
    if isinstance(value, list):
        return any(map(names_an_address, value))
    if not isinstance(value, dict):
        return False
    path = value.get("path")
    return (isinstance(path, str) and is_address(path)) or any(map(names_an_address, value.values()))
