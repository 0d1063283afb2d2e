//! features: what is implemented, for those who ask before they use it.

use crate::args::{Command, HELP, Parsed};
use crate::{Context, Done};
use killick_container::features::features;

pub fn command() -> Command {
    Command {
        name: "features",
        usage: "",
        positional: (0, 0),
        about: "print what is implemented",
        flags: &[HELP],
        stops: false,
        run,
    }
}

fn run(_: &Context, _: &Parsed, _: &[String]) -> Done {
    use serde::Serialize;
    let mut text = Vec::new();
    let four = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, four);
    features().serialize(&mut serializer).map_err(|error| error.to_string())?;
    println!("{}", String::from_utf8_lossy(&text));
    Ok(0)
}
