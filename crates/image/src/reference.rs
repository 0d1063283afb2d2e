//! Image references: parsed and normalised as distribution/reference does it, with kubelet's error texts.

use std::fmt;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// A normalised reference: `busybox` and `docker.io/library/busybox:latest` are the same value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// With its registry: `docker.io/library/busybox`.
    pub repository: String,
    /// `latest` where neither tag nor digest was written.
    pub tag: Option<String>,
    /// `sha256:…`.
    pub digest: Option<String>,
}

/// Reads as kubelet has it: `couldn't parse image name "X": invalid reference format`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {}: {why}", quoted(.name))]
pub struct ParseError {
    pub name: String,
    pub why: String,
}

/// Parses what a person or a manifest wrote.
pub fn normalise(text: &str) -> Result<Reference, ParseError> {
    parse(text).map_err(|why| ParseError { name: text.to_owned(), why })
}

impl Reference {
    /// The name that the store keeps: repository and tag.
    pub fn name(&self) -> String {
        match &self.tag {
            Some(tag) => format!("{}:{tag}", self.repository),
            None => self.repository.clone(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    let bad = || "invalid reference format".to_owned();
    if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(format!("invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"));
    }
    let (domain, remainder) = split_domain(text);
    let path = remainder.split(':').next().unwrap_or_default();
    if path.chars().any(char::is_uppercase) {
        return Err(format!("invalid reference format: repository name ({path}) must be lowercase"));
    }
    let (named, digest) = match remainder.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (remainder.as_str(), None),
    };
    let (path, tag) = match named.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (named, None),
    };
    if !is_domain(&domain) || !path.split('/').all(is_path_component) || !tag.is_none_or(is_tag) {
        return Err(bad());
    }
    if let Some(digest) = digest {
        check_digest(digest)?;
    }
    if path.len() > NAME_BYTES_MAX {
        return Err(format!("repository name must not be more than {NAME_BYTES_MAX} characters"));
    }
    let tag = match (tag, digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some("latest".to_owned()),
    };
    Ok(Reference { repository: format!("{domain}/{path}"), tag, digest: digest.map(str::to_owned) })
}

/// The first component is a registry only if it looks like a host: a dot, a port, `localhost`, or an upper-case letter.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((LEGACY_DEFAULT_DOMAIN | DEFAULT_DOMAIN, path)) => (DEFAULT_DOMAIN, path),
        Some((first, path))
            if first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase) =>
        {
            (first, path)
        }
        Some(_) | None => (DEFAULT_DOMAIN, name),
    };
    match domain == DEFAULT_DOMAIN && !path.contains('/') {
        true => (domain.to_owned(), format!("{OFFICIAL_PREFIX}{path}")),
        false => (domain.to_owned(), path.to_owned()),
    }
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return false;
            }
            match rest.strip_prefix(':') {
                Some(port) => ("", Some(port)),
                None if rest.is_empty() => ("", None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let component = |c: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        edge(c.bytes().next()) && edge(c.bytes().last()) && c.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    (text.starts_with('[') || host.split('.').all(component))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Runs of `a-z0-9` between single `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let mut rest = text;
    loop {
        let run = rest.bytes().take_while(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9')).count();
        if run == 0 {
            return false;
        }
        rest = &rest[run..];
        if rest.is_empty() {
            return true;
        }
        let separator = rest.bytes().take_while(|b| !matches!(b, b'a'..=b'z' | b'0'..=b'9')).count();
        let (between, after) = match rest.is_char_boundary(separator) {
            true => rest.split_at(separator),
            false => return false,
        };
        if !matches!(between, "." | "_" | "__") && !between.bytes().all(|b| b == b'-') {
            return false;
        }
        rest = after;
    }
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn check_digest(text: &str) -> Result<(), String> {
    let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
    let well_formed = text.split_once(':').is_some_and(|(algorithm, value)| {
        let part = |p: &str| {
            p.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) && p.bytes().all(|b| b.is_ascii_alphanumeric())
        };
        algorithm.split(['-', '_', '+', '.']).all(part) && value.len() >= 32 && hex(value)
    });
    let Some((algorithm, value)) = text.split_once(':').filter(|_| well_formed) else {
        return Err("invalid reference format".to_owned());
    };
    match algorithm {
        "sha256" if value.len() != 64 => Err("invalid checksum digest length".to_owned()),
        "sha256" if value.bytes().any(|b| b.is_ascii_uppercase()) => Err("invalid checksum digest format".to_owned()),
        "sha256" => Ok(()),
        _ => Err("unsupported digest algorithm".to_owned()),
    }
}

/// Go's `%q`, for what a reference can hold.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(written: &str, expected: &str) {
        match normalise(written) {
            Ok(reference) => assert_eq!(reference.to_string(), expected, "{written}"),
            Err(error) => assert_eq!(error.why, expected, "{written}"),
        }
    }

    #[test]
    fn docker_style_names_are_normalised() {
        check("busybox", "docker.io/library/busybox:latest");
        check("docker.io/library/busybox:latest", "docker.io/library/busybox:latest");
        check("index.docker.io/busybox", "docker.io/library/busybox:latest");
        check("docker.io/busybox:1", "docker.io/library/busybox:1");
        check("user/app:v1.2-3_x", "docker.io/user/app:v1.2-3_x");
        check("localhost/app", "localhost/app:latest");
        check("localhost:5000/app:1", "localhost:5000/app:1");
        check("[::1]:5000/app", "[::1]:5000/app:latest");
        check("Registry/app", "Registry/app:latest");
        check("killick.local/busybox:1", "killick.local/busybox:1");
        check(
            "registry.cn-beijing.aliyuncs.com/google_registry/nginx:1.17",
            "registry.cn-beijing.aliyuncs.com/google_registry/nginx:1.17",
        );
        let digest = format!("sha256:{}", "a".repeat(64));
        check(&format!("busybox@{digest}"), &format!("docker.io/library/busybox@{digest}"));
        check(&format!("busybox:1@{digest}"), &format!("docker.io/library/busybox:1@{digest}"));
        check("a/b__c/d--e.f", "docker.io/a/b__c/d--e.f:latest");
    }

    #[test]
    fn what_is_no_reference_is_refused_in_kubelets_words() {
        for bad in [
            "",
            ":",
            "a b",
            "busybox:",
            "busybox:-x",
            "/busybox",
            "a//b",
            "a/_b",
            "a/b___c",
            "x.y/",
            "a@b",
            "bü",
            "é/é",
            "-.x/a",
        ] {
            check(bad, "invalid reference format");
        }
        check("BusyBox", "invalid reference format: repository name (library/BusyBox) must be lowercase");
        check("killick.local/Busy:1", "invalid reference format: repository name (Busy) must be lowercase");
        check(
            &"a".repeat(64),
            &format!("invalid repository name ({}), cannot specify 64-byte hexadecimal strings", "a".repeat(64)),
        );
        check(&format!("x/{}", "a".repeat(300)), "repository name must not be more than 255 characters");
        check(&format!("a:{}", "t".repeat(129)), "invalid reference format");
        check(&format!("a@sha256:{}", "a".repeat(40)), "invalid checksum digest length");
        check(&format!("a@md5:{}", "a".repeat(32)), "unsupported digest algorithm");
        let error = normalise("a \"b\"\n").unwrap_err();
        assert_eq!(error.to_string(), r#"couldn't parse image name "a \"b\"\n": invalid reference format"#);
    }
}
