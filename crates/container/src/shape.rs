//! The kinds and ranges of what `support` looks at and what no type says: an error names the field with its place and
//! its value. All other fields are checked by their types (`config::typed`).

use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    Text,
    Bool,
}

use Kind::{Array, Bool, Object, Text};

/// Field by field; `[]` is every element, `{}` every member.
const CONFIG: [(&str, Kind); 34] = [
    ("ociVersion", Text),
    ("root", Object),
    ("root.path", Text),
    ("root.readonly", Bool),
    ("hostname", Text),
    ("domainname", Text),
    ("process", Object),
    ("annotations", Object),
    ("annotations.{}", Text),
    ("mounts", Array),
    ("mounts[]", Object),
    ("mounts[].destination", Text),
    ("mounts[].type", Text),
    ("mounts[].source", Text),
    ("mounts[].options", Array),
    ("mounts[].options[]", Text),
    ("hooks", Object),
    ("hooks.{}", Array),
    ("hooks.{}[]", Object),
    ("hooks.{}[].path", Text),
    ("linux", Object),
    ("linux.namespaces", Array),
    ("linux.namespaces[]", Object),
    ("linux.namespaces[].type", Text),
    ("linux.namespaces[].path", Text),
    ("linux.sysctl", Object),
    ("linux.sysctl.{}", Text),
    ("linux.cgroupsPath", Text),
    ("linux.mountLabel", Text),
    ("linux.netDevices", Object),
    ("linux.netDevices.{}", Object),
    ("linux.netDevices.{}.name", Text),
    ("linux.seccomp", Object),
    ("linux.seccomp.syscalls", Array),
];

const PROCESS: [(&str, Kind); 10] = [
    ("args", Array),
    ("args[]", Text),
    ("env", Array),
    ("cwd", Text),
    ("apparmorProfile", Text),
    ("selinuxLabel", Text),
    ("capabilities", Object),
    ("capabilities.{}", Array),
    ("capabilities.{}[]", Text),
    ("user", Object),
];

/// Fields and the integers that they may be.
const RANGES: [(&str, i64, i64); 4] = [
    ("oomScoreAdj", -1000, 1000),
    ("user.uid", 0, u32::MAX as i64 - 1),
    ("user.gid", 0, u32::MAX as i64 - 1),
    ("user.umask", 0, 0o7777),
];

/// The kernel's limit (`__NEW_UTS_LEN`).
const NAME_BYTES_MAX: usize = 64;

pub(crate) fn check(config: &Value) -> Result<(), String> {
    for (path, kind) in CONFIG {
        each(config, "", path, &mut |field, value| of_kind(field, value, kind))?;
    }
    for field in ["hostname", "domainname"] {
        let name = config.get(field).and_then(Value::as_str).unwrap_or_default();
        if name.len() > NAME_BYTES_MAX {
            return Err(format!("{field} {name:?}: longer than {NAME_BYTES_MAX} bytes"));
        }
    }
    each(config, "", "annotations", &mut |field, annotations| {
        let has_empty = annotations.as_object().is_some_and(|annotations| annotations.contains_key(""));
        if has_empty { Err(format!("{field}: a key is empty")) } else { Ok(()) }
    })
}

pub(crate) fn check_process(process: &Value) -> Result<(), String> {
    for (path, kind) in PROCESS {
        each(process, "process", path, &mut |field, value| of_kind(field, value, kind))?;
    }
    for (path, least, most) in RANGES {
        each(process, "process", path, &mut |field, value| match value.as_i64() {
            Some(number) if (least..=most).contains(&number) => Ok(()),
            Some(_) | None => Err(format!("{field}: {value} is no integer from {least} to {most}")),
        })?;
    }
    Ok(())
}

fn of_kind(field: &str, value: &Value, kind: Kind) -> Result<(), String> {
    let (fits, name) = match kind {
        Object => (value.is_object(), "an object"),
        Array => (value.is_array(), "an array"),
        Text => (value.is_string(), "a string"),
        Bool => (value.is_boolean(), "true or false"),
    };
    if !fits {
        return Err(format!("{field}: {} is not {name}", shortened(value)));
    }
    match value.as_str() {
        Some(text) if text.contains('\0') => Err(format!("{field}: {text:?} has a NUL byte")),
        Some(_) | None => Ok(()),
    }
}

/// One line, whatever stands there.
fn shortened(value: &Value) -> String {
    const LETTERS_MAX: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LETTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Calls `check` with the name and the value of everything that a path means; what is absent is nothing.
fn each(
    value: &Value,
    before: &str,
    path: &str,
    check: &mut dyn FnMut(&str, &Value) -> Result<(), String>,
) -> Result<(), String> {
    if path.is_empty() {
        return check(before, value);
    }
    if let Some(rest) = path.strip_prefix("[]") {
        for (index, element) in value.as_array().into_iter().flatten().enumerate() {
            each(element, &format!("{before}[{index}]"), rest, check)?;
        }
        return Ok(());
    }
    let path = path.trim_start_matches('.');
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    let dot = if before.is_empty() { "" } else { "." };
    if name == "{}" {
        for (key, member) in value.as_object().into_iter().flatten() {
            each(member, &format!("{before}[{key:?}]"), rest, check)?;
        }
        return Ok(());
    }
    match value.get(name) {
        Some(member) => each(member, &format!("{before}{dot}{name}"), rest, check),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wrong_kind_is_named_with_its_place() {
        for (config, expected) in [
            (json!({"ociVersion": 1.0}), "ociVersion: 1.0 is not a string"),
            (json!({"mounts": [{}, {"options": ["ro", 5]}]}), "mounts[1].options[1]: 5 is not a string"),
            (json!({"linux": {"sysctl": {"net.x": 1}}}), "linux.sysctl[\"net.x\"]: 1 is not a string"),
            (json!({"hooks": {"poststop": {}}}), "hooks[\"poststop\"]: {} is not an array"),
            (json!({"hostname": "a\0b"}), "hostname: \"a\\0b\" has a NUL byte"),
            (json!({"annotations": {"": "x"}}), "annotations: a key is empty"),
        ] {
            assert_eq!(check(&config).unwrap_err(), expected);
        }
        assert_eq!(
            check_process(&json!({"oomScoreAdj": 1001})).unwrap_err(),
            "process.oomScoreAdj: 1001 is no integer from -1000 to 1000"
        );
        assert_eq!(check_process(&json!({"args": "sh"})).unwrap_err(), "process.args: \"sh\" is not an array");
        assert_eq!(check(&json!({"root": {"path": "x"}, "mounts": []})), Ok(()));
    }
}
