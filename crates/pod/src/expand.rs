//! `$(VAR)` and where it is used: commands, arguments, probe commands, `subPathExpr` (kubelet.md §6.1, §1.5).
//!
//! One pass from left to right; what a reference gives is not looked at again.

use std::collections::BTreeMap;

use crate::spec::{Container, ExecAction};

/// Replaces each `$(NAME)` that `lookup` knows; an unknown one stays as it is, `$$` is one `$`.
///
/// ```
/// let home = |name: &str| (name == "HOME").then(|| "/root".to_owned());
/// assert_eq!(killick_pod::expand::expand("$(HOME)/$(NO)/$$(HOME)", home), "/root/$(NO)/$(HOME)");
/// ```
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = match after.chars().next() {
            Some('$') => {
                result.push('$');
                &after[1..]
            }
            Some('(') => match after[1..].split_once(')') {
                Some((name, behind)) => {
                    match lookup(name) {
                        Some(value) => result.push_str(&value),
                        None => {
                            result.push_str("$(");
                            result.push_str(name);
                            result.push(')');
                        }
                    }
                    behind
                }
                None => {
                    result.push_str("$(");
                    &after[1..]
                }
            },
            _ => {
                result.push('$');
                after
            }
        };
    }
    result.push_str(rest);
    result
}

/// For `subPathExpr`, where a reference to nothing is an error.
pub fn expand_strict(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let missing = std::cell::Cell::new(None);
    let expanded = expand(text, |name| {
        lookup(name).or_else(|| {
            missing.set(missing.take().or_else(|| Some(name.to_owned())));
            None
        })
    });
    match missing.take() {
        Some(name) => Err(format!("missing value for \"{name}\"")),
        None => Ok(expanded),
    }
}

/// What the container runs. `env` is what `env::resolve_env` gave: variables that only the image sets are not seen.
/// The pod's `command` without `args` drops the image's CMD as well.
pub fn command_line(
    container: &Container,
    image_entrypoint: &[String],
    image_cmd: &[String],
    env: &[(String, String)],
) -> Vec<String> {
    let known: BTreeMap<&str, &str> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expand = |words: &[String]| -> Vec<String> {
        words.iter().map(|word| expand(word, |name| known.get(name).map(|value| (*value).to_owned()))).collect()
    };
    let command = if container.command.is_empty() { image_entrypoint.to_vec() } else { expand(&container.command) };
    let args = match (container.command.is_empty(), container.args.is_empty()) {
        (true, true) => image_cmd.to_vec(),
        (false, true) => Vec::new(),
        (_, false) => expand(&container.args),
    };
    command.into_iter().chain(args).collect()
}

/// An exec probe's command: only the container's literal `env` values are put in, everything else stays.
pub fn probe_command(container: &Container, action: &ExecAction) -> Vec<String> {
    let literal = |name: &str| {
        let variable = container.env.iter().rev().find(|variable| variable.name == name)?;
        match variable.value_from {
            None => Some(variable.value.clone().unwrap_or_default()),
            Some(_) => None,
        }
    };
    action.command.iter().map(|word| expand(word, literal)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{EnvVar, EnvVarSource};

    fn lookup(name: &str) -> Option<String> {
        match name {
            "VAR_A" => Some("A".to_owned()),
            "VAR_REF" => Some("$(VAR_A)".to_owned()),
            "VAR_EMPTY" => Some(String::new()),
            "" => Some("nothing".to_owned()),
            _ => None,
        }
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(expand(text, lookup), expected, "{text}");
    }

    #[test]
    fn references_are_read_as_kubelet_reads_them() {
        check("", "");
        check("none", "none");
        check("$(VAR_A)", "A");
        check("___$(VAR_A)___", "___A___");
        check("$(VAR_A)$(VAR_A)", "AA");
        check("$(VAR_REF)", "$(VAR_A)");
        check("[$(VAR_EMPTY)]", "[]");
        check("$(NO)", "$(NO)");
        check("$$(VAR_A)", "$(VAR_A)");
        check("$$$(VAR_A)", "$A");
        check("$$$$(VAR_A)", "$$(VAR_A)");
        check("$$$$$(VAR_A)", "$$A");
        check("$$", "$");
        check("$", "$");
        check("f$$oo", "f$oo");
        check("$VAR_A", "$VAR_A");
        check("$(VAR_A", "$(VAR_A");
        check("$(VAR_A$(VAR_A)", "$(VAR_A$(VAR_A)");
        check("$()", "nothing");
        check("$)(VAR_A)", "$)(VAR_A)");
        check("ä$(VAR_A)ö$ü", "äAö$ü");
        check("a$(", "a$(");
    }

    #[test]
    fn a_sub_path_with_a_reference_to_nothing_is_an_error() {
        assert_eq!(expand_strict("x/$(VAR_A)", lookup), Ok("x/A".to_owned()));
        assert_eq!(expand_strict("$(NO)/$(NEITHER)", lookup), Err("missing value for \"NO\"".to_owned()));
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn container(command: &str, args: &str) -> Container {
        let mut container: Container = serde_json::from_value(serde_json::json!({
            "name": "c", "image": "i", "imagePullPolicy": "Never",
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        }))
        .unwrap();
        (container.command, container.args) = (words(command), words(args));
        container
    }

    #[test]
    fn command_and_args_replace_what_kubernetes_replaces() {
        let env = [("X".to_owned(), "1".to_owned())];
        let run = |command: &str, args: &str| {
            command_line(&container(command, args), &words("ep $(X)"), &words("cmd"), &env).join(" ")
        };
        assert_eq!(run("", ""), "ep $(X) cmd");
        assert_eq!(run("mine $(X)", ""), "mine 1");
        assert_eq!(run("", "a $(X) $(PATH)"), "ep $(X) a 1 $(PATH)");
        assert_eq!(run("mine", "$$(X)"), "mine $(X)");
    }

    #[test]
    fn a_probe_command_sees_only_literal_values() {
        let mut container = container("", "");
        container.env = vec![
            EnvVar { name: "A".to_owned(), value: Some("1".to_owned()), value_from: None },
            EnvVar { name: "B".to_owned(), value: None, value_from: Some(EnvVarSource::default()) },
            EnvVar { name: "C".to_owned(), value: None, value_from: None },
        ];
        let action = ExecAction { command: words("x $(A) $(B) [$(C)] $(D)") };
        assert_eq!(probe_command(&container, &action), words("x 1 $(B) [] $(D)"));
    }
}
