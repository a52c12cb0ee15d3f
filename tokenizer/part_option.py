"""The value of `--part`: which part of how many."""

import re

import click

from fanal.errors import UserError
from tokenizer.documents.blocks import Part


class PartType(click.ParamType):
    """Option value I/N: part I of N."""

    name = "I/N"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Part:
        match = re.fullmatch(r"(\d+)/(\d+)", value)
        if not match:
            self.fail(f"{value!r} must be I/N, for example 1/8 to 8/8", param, ctx)
        try:
            return Part(number=int(match[1]), count=int(match[2]))
        except UserError as problem:
            self.fail(str(problem), param, ctx)
