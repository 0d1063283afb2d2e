//! `completion bash` and `man`: from the definition of the commands; pods' names come from `get`.

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

/// The manual page, in man's macros.
pub fn manual() -> String {
    let all = command();
    let version = env!("CARGO_PKG_VERSION");
    let mut text =
        format!(".TH KILLICK 1 \"\" \"killick {version}\"\n.SH NAME\nkillick \\- run Kubernetes pods on one machine\n");
    text.push_str(".SH SYNOPSIS\n.B killick\n.I COMMAND\n[\\fIOPTIONS\\fR]\n.SH DESCRIPTION\n");
    text.push_str(&roff(&all.get_long_about().map(ToString::to_string).unwrap_or_default()));
    text.push_str("\n.SH COMMANDS\n");
    for sub in all.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        describe_command(&mut text, "killick", sub);
    }
    text.push_str(
        ".SH ENVIRONMENT\n.TP\n.B KILLICK_RUN\nWhat dies with the boot (/run/killick).\n.TP\n.B KILLICK_ROOT\n\
         Images, objects and pods (/var/lib/killick).\n.TP\n.B KILLICK_LOGS\nThe containers' logs (/var/log/pods).\n\
         .SH EXIT STATUS\n0, 1 for every error, and for exec the command's own.\n",
    );
    text
}

fn describe_command(text: &mut String, above: &str, sub: &clap::Command) {
    let name = format!("{above} {}", sub.get_name());
    let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
    text.push_str(&format!(".SS {name}\n{}\n", roff(&about)));
    for argument in sub.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let names = [
            argument.get_short().map(|short| format!("-{short}")),
            argument.get_long().map(|long| format!("--{long}")),
        ];
        let mut label = names.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let values = argument.get_value_names().unwrap_or_default();
        for value in values.iter().filter(|value| !value.is_empty()) {
            label.push_str(&format!(" {value}"));
        }
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!(".TP\n.B {}\n{}\n", roff(label.trim()), roff(&help)));
    }
    for inner in sub.get_subcommands() {
        describe_command(text, &name, inner);
    }
}

fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('-', "\\-");
    let lines = escaped.lines().map(|line| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_names_every_command_that_help_names() {
        let text = manual();
        for sub in command().get_subcommands().filter(|sub| !sub.is_hide_set()) {
            assert!(text.contains(&format!(".SS killick {}\n", sub.get_name())), "{}", sub.get_name());
        }
        assert!(text.contains(".B \\-n, \\-\\-namespace NAMESPACE\n"), "{text}");
    }

    #[test]
    fn every_command_and_its_flags_are_in_the_script() {
        let script = bash();
        for text in ["describe", "get) words=\"--output --watch", "import", "complete -o default -F _killick killick"] {
            assert!(script.contains(text), "{text}\n{script}");
        }
    }
}
