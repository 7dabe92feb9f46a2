"""`kbe-nat completion`: words after TAB."""

import sys
from enum import StrEnum
from typing import Annotated

from click.shell_completion import get_completion_class

from kbe_nat.cli import app
from kbe_nat.cli.flags.flag import Argument
from kbe_nat.cli.verb import verb
from kbe_nat.cli_words import VARIABLE


class Shell(StrEnum):
    """Shells that complete words."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@verb()
def completion(shell: Annotated[Shell, Argument("The shell.")]) -> None:
    """Print the script that lets a shell complete verbs, flags and their values.

    Examples:
      source <(kbe-nat completion bash)
      kbe-nat completion zsh > "${fpath[1]}/_kbe-nat"
      kbe-nat completion fish > ~/.config/fish/completions/kbe-nat.fish
    """
    words = get_completion_class(shell)
    assert words is not None
    sys.stdout.write(words(app, {}, "kbe-nat", VARIABLE).source())
