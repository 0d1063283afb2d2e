//! `completion bash`: from the definition of the commands, and pods' names from `get`.

use clap::ArgMatches;

use crate::command::{command, text};
use crate::output::{Failure, Out, Result};

pub fn command_line(matches: &ArgMatches, out: &mut Out<'_>) -> Result<()> {
    match text(matches, "shell") {
        Some("bash") => out.print(&bash()),
        other => Err(Failure::error(format!("Unsupported shell type \"{}\".", other.unwrap_or_default()))),
    }
}

fn bash() -> String {
    let mut cases = String::new();
    let mut names = Vec::new();
    for sub in command().get_subcommands() {
        let name = sub.get_name();
        names.push(name.to_owned());
        let mut words: Vec<String> = sub
            .get_arguments()
            .filter(|argument| !argument.is_hide_set())
            .filter_map(|argument| argument.get_long())
            .map(|long| format!("--{long}"))
            .collect();
        words.extend(sub.get_subcommands().map(|inner| inner.get_name().to_owned()));
        cases.push_str(&format!("        {name}) words=\"{}\" ;;\n", words.join(" ")));
    }
    format!(
        "# bash completion for killick: source <(killick completion bash)
_killick() {{
    local current=\"${{COMP_WORDS[COMP_CWORD]}}\" words=\"\"
    COMPREPLY=()
    if [ \"$COMP_CWORD\" = 1 ]; then
        COMPREPLY=($(compgen -W \"{names}\" -- \"$current\"))
        return
    fi
    case \"${{COMP_WORDS[1]}}\" in
{cases}    esac
    case \"${{COMP_WORDS[1]}}:$current\" in
        apply:[!-]*|plan:[!-]*|image:[!-]*) COMPREPLY=($(compgen -f -- \"$current\")); return ;;
        get:|get:[!-]*|describe:|describe:[!-]*|delete:|delete:[!-]*)
            words=\"pod $(killick get pods --no-headers -o name 2>/dev/null | sed s,^pod/,,)\" ;;
        logs:|logs:[!-]*|exec:|exec:[!-]*|probes:|probes:[!-]*)
            words=\"$(killick get pods --no-headers -o name 2>/dev/null | sed s,^pod/,,)\" ;;
    esac
    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))
}}
complete -o default -F _killick killick
",
        names = names.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_its_flags_are_in_the_script() {
        let script = bash();
        for text in ["describe", "get) words=\"--output --watch", "import", "complete -o default -F _killick killick"] {
            assert!(script.contains(text), "{text}\n{script}");
        }
    }
}
