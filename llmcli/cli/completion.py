"""`llm completion`: the shell's Tab key, for bash, zsh and fish."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmcli import paths
from llmcli.cli.door import Command, environment, new_app
from llmcli.errors import UsageError, from_os_error

app = new_app(no_args_is_help=False)

Shell = Literal["bash", "zsh", "fish"]


@app.command(cls=Command, epilog="llm completion --install\nsource <(llm completion bash)")
def completion(
    ctx: typer.Context,
    shell: Annotated[Shell | None, typer.Argument(metavar="bash|zsh|fish", help="Default: $SHELL.")] = None,
    install: Annotated[bool, typer.Option("--install", help="Set it up for good.")] = False,
) -> None:
    """
    Print the completion script of a shell, or set it up.

    Completes commands, templates and their options, models, conversations and files.
    """
    env = environment(ctx)
    chosen = shell or _shell(env.environ.get("SHELL", ""))
    text = script(chosen)
    if not install:
        env.write(text)
        return
    for path in set_up(chosen, text, Path.home()):
        env.note(f"wrote {path}")
    env.note("open a new shell, or load it here: " + LOAD[chosen])


LOAD = {
    "bash": "source <(llm completion bash)",
    "zsh": "source <(llm completion zsh)",
    "fish": "llm completion fish | source",
}


def _shell(path: str) -> Shell:
    name = Path(path).name
    for known in LOAD:
        if name == known:
            return known  # type: ignore[return-value]
    raise UsageError(f"$SHELL is {path or 'not set'}", hint="name one: llm completion bash|zsh|fish")


def script(shell: str) -> str:
    """
    The script for a shell. It calls this very Python, since the `llm` on PATH may be another program.

    A script that outlives its installation completes nothing, and says nothing.
    """
    return (
        SCRIPTS[shell].replace("PYTHON", shlex.quote(sys.executable)).replace("PROGRAM", shlex.quote(PROGRAM))
    )


# `-c` puts the working folder on the path, where anybody's llmcli may lie: it is taken off first.
PROGRAM = "import sys; sys.path.pop(0); from llmcli.cli.candidates import main; main()"

BASH = r"""# llm completion for bash
_llm_complete() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            $'\x01files') compopt -o default ;;
            *) COMPREPLY+=("${line%%$'\t'*}") ;;
        esac
    done < <(PYTHON -c PROGRAM bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
}
complete -F _llm_complete llm llmcli
"""

ZSH = r"""#compdef llm llmcli
# llm completion for zsh
_llm_complete() {
    local line files
    local -a found
    for line in "${(@f)$(PYTHON -c PROGRAM zsh "${(@Q)words[1,CURRENT]}" 2>/dev/null)}"; do
        if [[ $line == $'\x01files' ]]; then
            files=1
        elif [[ $line == *$'\t'* ]]; then
            found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
        elif [[ -n $line ]]; then
            found+=("${line//:/\\:}")
        fi
    done
    (( $#found )) && _describe -V llm found
    [[ -n $files ]] && _files
    return 0
}
if (( ! $+functions[compdef] )); then
    autoload -Uz compinit && compinit
fi
compdef _llm_complete llm llmcli
"""

FISH = r"""# llm completion for fish
function __llm_complete
    for line in (PYTHON -c PROGRAM fish (commandline -opc) (commandline -ct) 2>/dev/null)
        if test "$line" = \x01files
            __fish_complete_path (commandline -ct)
        else
            printf '%s\n' $line
        end
    end
end
complete -c llm -f -k -a '(__llm_complete)'
complete -c llmcli -f -k -a '(__llm_complete)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def set_up(shell: str, text: str, home: Path) -> list[Path]:
    """Write the script where the shell finds it; for bash and zsh also one line in their start file."""
    try:
        if shell == "fish":
            folder = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish" / "completions"
            folder.mkdir(parents=True, exist_ok=True)
            places = [folder / "llm.fish", folder / "llmcli.fish"]
            for place in places:
                place.write_text(text, encoding="utf-8")
            return places
        place = paths.make_private(paths.data_dir()) / f"completion.{shell}"
        place.write_text(text, encoding="utf-8")
        start = home / f".{shell}rc"
        if shell == "zsh":
            start = Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"
        line = f"[ -f {shlex.quote(str(place))} ] && . {shlex.quote(str(place))}  # llmcli completion\n"
        there = start.read_text(encoding="utf-8", errors="surrogateescape") if start.exists() else ""
        if line.strip() in there:
            return [place]
        with start.open("a", encoding="utf-8") as file:
            file.write(("" if not there or there.endswith("\n") else "\n") + line)
        return [place, start]
    except OSError as error:
        raise from_os_error(error, f"set up completion for {shell}") from error
