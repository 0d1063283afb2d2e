//! The command line as tables: names, values and help come from one definition. As runc's parser reads it: one dash or
//! two, `--flag=value` or `--flag value`, flags before or after the container's id.

use crate::{Context, Done};
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// The first is the one by which it is asked for.
    pub names: &'static [&'static str],
    /// The word for its value in the help; None: a switch.
    pub value: Option<&'static str>,
    pub help: &'static str,
}

impl Flag {
    pub const fn value(names: &'static [&'static str], value: &'static str, help: &'static str) -> Self {
        Flag { names, value: Some(value), help }
    }

    pub const fn switch(names: &'static [&'static str], help: &'static str) -> Self {
        Flag { names, value: None, help }
    }
}

pub const HELP: Flag = Flag::switch(&["help", "h"], "show help");

#[derive(Debug)]
pub struct Command {
    pub name: &'static str,
    /// As the help shows them, and how many there may be.
    pub usage: &'static str,
    pub positional: (usize, usize),
    pub about: &'static str,
    pub flags: &'static [Flag],
    /// What follows the first positional argument is not ours.
    pub stops: bool,
    pub run: fn(&Context, &Parsed, &[String]) -> Done,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    values: BTreeMap<&'static str, Vec<String>>,
}

impl Parsed {
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The last one given.
    pub fn one(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(|values| values.last()).map(String::as_str)
    }

    pub fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        self.one(name).map(|text| text.parse().map_err(|_| format!("--{name} {text:?} is no number"))).transpose()
    }
}

/// Flags and the positional arguments; with `stops` everything from the first positional one on is among them.
pub fn parse(flags: &[Flag], words: &[String], stops: bool) -> Result<(Parsed, Vec<String>), String> {
    let (mut parsed, mut rest) = (Parsed::default(), Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(text) = word.strip_prefix('-').filter(|text| !text.is_empty()) else {
            rest.push(word.clone());
            if stops {
                break;
            }
            continue;
        };
        if word == "--" {
            break;
        }
        let text = text.strip_prefix('-').unwrap_or(text);
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let flag = flags.iter().find(|flag| flag.names.contains(&name));
        let flag = flag.ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
        let value = match (flag.value, inline) {
            (Some(_), Some(value)) => value,
            (Some(_), None) => words.next().cloned().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
            (None, None) => "true".into(),
            (None, Some(value)) => match value.as_str() {
                "true" | "1" => value,
                "false" | "0" => continue,
                _ => return Err(format!("invalid boolean value {value:?} for -{name}")),
            },
        };
        parsed.values.entry(flag.names[0]).or_default().push(value);
    }
    rest.extend(words.cloned());
    Ok((parsed, rest))
}

fn show(flags: &[Flag]) -> String {
    let mut text = String::new();
    for flag in flags {
        let names: Vec<_> = flag
            .names
            .iter()
            .map(|name| if name.len() == 1 { format!("-{name}") } else { format!("--{name}") })
            .collect();
        let value = flag.value.map(|value| format!(" {value}")).unwrap_or_default();
        let _ = writeln!(text, "   {:<34} {}", format!("{}{value}", names.join(", ")), flag.help);
    }
    text
}

pub fn help(program: &str, global: &[Flag], commands: &[Command]) -> String {
    let mut text = format!(
        "NAME:\n   {program} - an OCI runtime\n\nUSAGE:\n   {program} [global options] command …\n\nCOMMANDS:\n"
    );
    for command in commands {
        let _ = writeln!(text, "   {:<12} {}", command.name, command.about);
    }
    let _ = write!(text, "\nGLOBAL OPTIONS:\n{}", show(global));
    text
}

impl Command {
    pub fn help(&self, program: &str) -> String {
        let Command { name, usage, about, flags, .. } = self;
        format!(
            "NAME:\n   {program} {name} - {about}\n\nUSAGE:\n   {program} {name} [options] {usage}\n\nOPTIONS:\n{}",
            show(flags)
        )
    }

    /// In runc's words, what the number of positional arguments should have been.
    pub fn counts_wrong(&self, count: usize) -> Option<String> {
        match self.positional {
            (least, most) if least == most && count != least => Some(format!("exactly {least}")),
            (least, _) if count < least => Some(format!("a minimum of {least}")),
            (_, most) if count > most => Some(format!("a maximum of {most}")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag::value(&["bundle", "b"], "DIR", ""),
        Flag::switch(&["no-pivot"], ""),
        Flag::value(&["env", "e"], "VAR", ""),
    ];

    type Expected<'a> = Result<(&'a [(&'static str, &'a [&'a str])], &'a [&'a str]), &'a str>;

    fn check(line: &str, stops: bool, expected: Expected<'_>) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let expected = expected
            .map(|(values, rest)| {
                let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
                (Parsed { values: values.iter().map(|(name, all)| (*name, owned(all))).collect() }, owned(rest))
            })
            .map_err(str::to_owned);
        assert_eq!(parse(FLAGS, &words, stops), expected, "{line}");
    }

    #[test]
    fn flags_stand_before_or_after_the_id_with_one_dash_or_two() {
        check("--bundle /b id", false, Ok((&[("bundle", &["/b"])], &["id"])));
        check("id -b=/b -no-pivot", false, Ok((&[("bundle", &["/b"]), ("no-pivot", &["true"])], &["id"])));
        check("--no-pivot=false id", false, Ok((&[], &["id"])));
        check("-e A=1 -e B=2 id sh -c x", true, Ok((&[("env", &["A=1", "B=2"])], &["id", "sh", "-c", "x"])));
        check("-- id -x", true, Ok((&[], &["id", "-x"])));
        check("--wrong", false, Err("flag provided but not defined: -wrong"));
        check("--bundle", false, Err("flag needs an argument: -bundle"));
    }
}
