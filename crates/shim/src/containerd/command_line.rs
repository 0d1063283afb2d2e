//! containerd's way of calling a shim: Go's flags, one dash or two, in any order, and one word.

use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    pub namespace: String,
    pub id: String,
    /// containerd's gRPC socket.
    pub address: String,
    pub publish_binary: PathBuf,
    pub bundle: PathBuf,
    pub debug: bool,
    pub action: Action,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Action {
    /// No word: be the server.
    #[default]
    Serve,
    Start,
    Delete,
    Info,
    Version,
}

impl CommandLine {
    /// `None`: not containerd's command line at all.
    pub fn parse(args: &[OsString]) -> Option<Result<CommandLine, String>> {
        let first = args.first()?.to_str()?;
        if !first.starts_with('-') {
            return None;
        }
        Some(parse(args))
    }
}

fn parse(args: &[OsString]) -> Result<CommandLine, String> {
    let mut found = CommandLine::default();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let word = word.to_str().ok_or("an argument is not UTF-8")?;
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            found.action = match word {
                "start" => Action::Start,
                "delete" => Action::Delete,
                other => return Err(format!("unknown command {other:?}: start, delete, or none")),
            };
            continue;
        };
        let (name, given) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        match name {
            "debug" => found.debug = given.as_deref().is_none_or(is_true),
            "v" | "version" => found.action = Action::Version,
            "info" => found.action = Action::Info,
            "namespace" | "id" | "address" | "publish-binary" | "bundle" | "socket" => {
                let value = match given {
                    Some(value) => value,
                    None => words
                        .next()
                        .and_then(|value| value.to_str())
                        .ok_or_else(|| format!("flag needs an argument: -{name}"))?
                        .to_owned(),
                };
                match name {
                    "namespace" => found.namespace = value,
                    "id" => found.id = value,
                    "address" => found.address = value,
                    "publish-binary" => found.publish_binary = value.into(),
                    "bundle" => found.bundle = value.into(),
                    // Of containerd before 1.5.
                    _ => {}
                }
            }
            other => return Err(format!("flag provided but not defined: -{other}")),
        }
    }
    match found.action {
        Action::Info | Action::Version => {}
        Action::Serve | Action::Start | Action::Delete => {
            if found.namespace.is_empty() {
                return Err("shim namespace cannot be empty".into());
            }
            check_id(&found.id)?;
        }
    }
    Ok(found)
}

/// Go's strconv.ParseBool.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// What containerd itself accepts as an id; it becomes a part of paths.
pub fn check_id(id: &str) -> Result<(), String> {
    let ok = !id.is_empty()
        && id.len() <= 76
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
        && id.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if ok { Ok(()) } else { Err(format!("identifier {id:?}: letters, digits, '-', '_' and '.', at most 76")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<Result<CommandLine, String>> {
        CommandLine::parse(&text.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn go_flags_in_any_form_and_order() {
        let text = "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id abc -debug start";
        let wanted = CommandLine {
            namespace: "k8s.io".into(),
            id: "abc".into(),
            address: "/run/c.sock".into(),
            publish_binary: "/usr/bin/containerd".into(),
            bundle: PathBuf::new(),
            debug: true,
            action: Action::Start,
        };
        assert_eq!(line(text), Some(Ok(wanted.clone())));
        let text =
            "--id=abc start --namespace=k8s.io -address=/run/c.sock --debug=1 -publish-binary /usr/bin/containerd";
        assert_eq!(line(text), Some(Ok(wanted)));
        assert_eq!(line("-info").unwrap().unwrap().action, Action::Info);
        assert_eq!(line("--version").unwrap().unwrap().action, Action::Version);
        let served = line("-namespace n -id a -bundle /b").unwrap().unwrap();
        assert_eq!((served.action, served.bundle), (Action::Serve, "/b".into()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, wrong) in [
            ("-id a start", "shim namespace cannot be empty"),
            ("-namespace n start", "identifier \"\": letters, digits, '-', '_' and '.', at most 76"),
            ("-namespace n -id ../x start", "identifier \"../x\": letters, digits, '-', '_' and '.', at most 76"),
            ("-namespace n -id a stop", "unknown command \"stop\": start, delete, or none"),
            ("-namespace n -id a -colour start", "flag provided but not defined: -colour"),
            ("-namespace n -id", "flag needs an argument: -id"),
        ] {
            assert_eq!(line(text), Some(Err(wrong.into())), "{text}");
        }
        assert_eq!(line("pod start"), None);
        assert_eq!(line(""), None);
    }
}
