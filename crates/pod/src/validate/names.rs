//! What names may look like (kubelet.md §8.3). Each rule gives the API's messages; none: the name is good.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const SYSCTL: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const ENV: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";

fn messages(checks: &[(bool, &str)]) -> Vec<String> {
    checks.iter().filter(|(holds, _)| !holds).map(|(_, message)| (*message).to_owned()).collect()
}

fn too_long(text: &str, max: usize) -> Vec<String> {
    if text.len() > max { vec![format!("must be no more than {max} characters")] } else { Vec::new() }
}

/// Begins and ends with `edge`, and between there is `edge` or one of `inside`.
fn is_word(text: &str, edge: fn(&u8) -> bool, inside: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let at_edge = |byte: Option<&u8>| byte.is_some_and(edge);
    at_edge(bytes.first()) && at_edge(bytes.last()) && bytes.iter().all(|byte| edge(byte) || inside.contains(byte))
}

fn is_lower(byte: &u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_alphanumeric(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// RFC 1123 label: names of containers, volumes, namespaces.
pub fn label(name: &str) -> Vec<String> {
    [too_long(name, 63), messages(&[(is_word(name, is_lower, b"-"), LABEL)])].concat()
}

/// RFC 1123 subdomain: names of pods and of other objects.
pub fn subdomain(name: &str) -> Vec<String> {
    let is_good = name.split('.').all(|part| is_word(part, is_lower, b"-"));
    [too_long(name, 253), messages(&[(is_good, SUBDOMAIN)])].concat()
}

/// `[prefix/]name`: keys of labels and annotations.
pub fn qualified_name(name: &str) -> Vec<String> {
    let (prefix, part) = name.split_once('/').map_or((None, name), |(prefix, part)| (Some(prefix), part));
    let mut result = Vec::new();
    match prefix {
        Some("") => result.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => result.extend(subdomain(prefix).into_iter().map(|message| format!("prefix part {message}"))),
        None => {}
    }
    if part.is_empty() {
        result.push("name part must be non-empty".to_owned());
    } else if part.len() > 63 {
        result.push("name part must be no more than 63 characters".to_owned());
    }
    result.extend(messages(&[(is_word(part, is_alphanumeric, b"-_."), NAME_PART)]));
    result
}

pub fn label_value(value: &str) -> Vec<String> {
    let is_good = value.is_empty() || is_word(value, is_alphanumeric, b"-_.");
    [too_long(value, 63), messages(&[(is_good, LABEL_VALUE)])].concat()
}

pub fn config_key(key: &str) -> Vec<String> {
    let is_good = !key.is_empty() && key.bytes().all(|byte| is_alphanumeric(&byte) || b"-_.".contains(&byte));
    let mut result = [too_long(key, 253), messages(&[(is_good, CONFIG_KEY)])].concat();
    match key {
        "." => result.push("must not be '.'".to_owned()),
        ".." => result.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => result.push("must not start with '..'".to_owned()),
        _ => {}
    }
    result
}

pub fn env_name(name: &str) -> Vec<String> {
    messages(&[(crate::env::is_env_name(name), ENV)])
}

pub fn http_header(name: &str) -> Vec<String> {
    messages(&[(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), HEADER)])
}

/// IANA_SVC_NAME: names of ports.
pub fn port_name(name: &str) -> Vec<String> {
    messages(&[
        (name.len() <= 15, "must be no more than 15 characters"),
        (
            name.bytes().all(|byte| is_lower(&byte) || byte == b'-'),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (name.bytes().any(|byte| byte.is_ascii_lowercase()), "must contain at least one letter (a-z)"),
        (!name.contains("--"), "must not contain consecutive hyphens"),
        (!name.starts_with('-') && !name.ends_with('-'), "must not begin or end with a hyphen"),
    ])
}

pub fn sysctl(name: &str) -> Vec<String> {
    let is_good = name.len() <= 253 && name.split(['.', '/']).all(|part| is_word(part, is_lower, b"-_"));
    messages(&[(is_good, SYSCTL)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]) {
        for name in good {
            assert_eq!(rule(name), Vec::<String>::new(), "{name:?}");
        }
        for name in bad {
            assert!(!rule(name).is_empty(), "{name:?}");
        }
    }

    #[test]
    fn names_are_what_the_api_lets_them_be() {
        let long = "a".repeat(64);
        check(label, &["a", "a-b", "0", "my-name"], &["", "-a", "a-", "A", "a.b", "a_b", "ä", &long]);
        check(subdomain, &["a", "a.b-c.d", &long], &["", ".", "a.", "a..b", "A", "a_b", &"a".repeat(254)]);
        check(
            qualified_name,
            &["a", "A_b.c", "x.y/z", "kubernetes.io/name"],
            &["", "/a", "a/", "a/b/c", "X/y", "-a", &long],
        );
        check(label_value, &["", "a", "A.b_c-d", "1"], &["-a", "a-", "a b", &long]);
        check(config_key, &["a", ".x", "A_b-c.d"], &["", ".", "..", "..a", "a/b", "a b"]);
        check(env_name, &["A", "a.b", "1a", "a b"], &["", "a=b", "ä", "a\n"]);
        check(
            port_name,
            &["http", "a1-b", "123456789012a"],
            &["", "80", "-a", "a-", "a--b", "HTTP", "a_b", "abcdefghijklmnop"],
        );
        check(http_header, &["X-Header", ""], &["X Header", "X_Y", "ä"]);
        check(sysctl, &["kernel.shm_rmid_forced", "net/ipv4/tcp", "a-b"], &["", ".a", "a..b", "A", "a."]);
    }
}
