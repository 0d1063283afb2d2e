//! URLs as Go's `net/url` reads and writes them, as far as probes need it: kubelet parses a probe's path with it, sends
//! what comes out and prints it in its messages. User names and passwords are dropped.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Url {
    pub(crate) scheme: String,
    /// With the port, as written.
    pub(crate) host: String,
    /// Encoded.
    path: String,
    opaque: Option<String>,
    query: Option<String>,
    fragment: Option<String>,
}

impl Url {
    /// kubelet's `formatURL` followed by `http.NewRequest`: a path that is no URL is sent as a path.
    pub(crate) fn of_probe(scheme: &str, host: &str, port: u16, path: &str) -> Result<Url, String> {
        let mut url = Url::parse(path)
            .unwrap_or_else(|_| Url { path: escape(path.as_bytes(), is_plain_in_path), ..Url::default() });
        url.scheme = scheme.to_owned();
        url.host = join_host_port(host, port);
        Url::parse(&url.to_string())
    }

    /// `Err` reads as Go's: `parse "…": …`.
    pub(crate) fn parse(text: &str) -> Result<Url, String> {
        let failed = |reason: &str| format!("parse {}: {reason}", quote(text));
        if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return Err(failed("net/url: invalid control character in URL"));
        }
        let (rest, fragment) = cut(text, '#');
        let (scheme, rest) = split_scheme(rest).map_err(failed)?;
        let (rest, query) = cut(rest, '?');
        let mut url = Url { scheme: scheme.to_ascii_lowercase(), query: query.map(str::to_owned), ..Url::default() };
        url.fragment = match fragment.filter(|fragment| !fragment.is_empty()) {
            Some(fragment) => Some(encoded(fragment, is_plain_in_fragment).map_err(|error| failed(&error))?),
            None => None,
        };
        if !rest.starts_with('/') {
            if !scheme.is_empty() {
                url.opaque = Some(rest.to_owned());
                return Ok(url);
            }
            if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
                return Err(failed("first path segment in URL cannot contain colon"));
            }
        }
        let mut path = rest;
        if (!scheme.is_empty() || !rest.starts_with("///")) && rest.starts_with("//") {
            let authority = &rest[2..];
            let end = authority.find('/').unwrap_or(authority.len());
            path = &authority[end..];
            let host = authority[..end].rsplit_once('@').map_or(&authority[..end], |(_, host)| host);
            url.host = check_host(host).map_err(|error| failed(&error))?;
        }
        url.path = match path {
            "*" => "*".to_owned(),
            path => encoded(path, is_plain_in_path).map_err(|error| failed(&error))?,
        };
        Ok(url)
    }

    /// What a `Location` means on a page of this URL (RFC 3986 §5.2).
    pub(crate) fn join(&self, reference: &str) -> Result<Url, String> {
        let reference = Url::parse(reference)?;
        let mut url = reference.clone();
        if reference.scheme.is_empty() {
            url.scheme.clone_from(&self.scheme);
        }
        if !reference.scheme.is_empty() || !reference.host.is_empty() {
            url.path = if url.path.is_empty() { String::new() } else { without_dots(&url.path) };
            return Ok(url);
        }
        url.host.clone_from(&self.host);
        if reference.path.is_empty() {
            url.path.clone_from(&self.path);
            if reference.query.is_none() {
                url.query.clone_from(&self.query);
                if reference.fragment.is_none() {
                    url.fragment.clone_from(&self.fragment);
                }
            }
            return Ok(url);
        }
        if !reference.path.starts_with('/') {
            let directory = self.path.rfind('/').map_or("/", |slash| &self.path[..=slash]);
            url.path = format!("{directory}{}", reference.path);
        }
        url.path = without_dots(&url.path);
        Ok(url)
    }

    pub(crate) fn is_absolute(&self) -> bool {
        !self.scheme.is_empty()
    }

    /// What stands in the request line.
    pub(crate) fn request_target(&self) -> String {
        let path = match &self.opaque {
            Some(opaque) => opaque.as_str(),
            None if self.path.is_empty() => "/",
            None => &self.path,
        };
        match &self.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        }
    }

    /// The host without port and brackets.
    pub(crate) fn host_name(&self) -> &str {
        split_host_port(&self.host).0
    }

    /// The port that is given or goes with the scheme.
    pub(crate) fn port(&self) -> Option<u16> {
        match split_host_port(&self.host).1.filter(|port| !port.is_empty()) {
            Some(port) => port.parse().ok(),
            None if self.scheme == "https" => Some(443),
            None => Some(80),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(f, "{}:", self.scheme)?;
        }
        if let Some(opaque) = &self.opaque {
            f.write_str(opaque)?;
        } else {
            if !self.host.is_empty() {
                write!(f, "//{}", self.host)?;
                if !self.path.is_empty() && !self.path.starts_with('/') {
                    f.write_str("/")?;
                }
            }
            f.write_str(&self.path)?;
        }
        if let Some(query) = &self.query {
            write!(f, "?{query}")?;
        }
        match &self.fragment {
            Some(fragment) => write!(f, "#{fragment}"),
            None => Ok(()),
        }
    }
}

/// `net.JoinHostPort`: brackets for IPv6.
pub(crate) fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn split_host_port(host: &str) -> (&str, Option<&str>) {
    if let Some(inner) = host.strip_prefix('[')
        && let Some((address, rest)) = inner.split_once(']')
    {
        return (address, rest.strip_prefix(':'));
    }
    match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    }
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), &'static str> {
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if index > 0 => {}
            b':' if index == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((&text[..index], &text[index + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn check_host(host: &str) -> Result<String, String> {
    let (name, port) = if host.starts_with('[') {
        match host.rfind(']') {
            Some(end) => (&host[..=end], &host[end + 1..]),
            None => return Err("missing ']' in host".to_owned()),
        }
    } else {
        match host.rfind(':') {
            Some(colon) => host.split_at(colon),
            None => (host, ""),
        }
    };
    let port_is_fine = port.is_empty() || port.starts_with(':') && port[1..].bytes().all(|byte| byte.is_ascii_digit());
    if !port_is_fine {
        return Err(format!("invalid port {} after host", quote(port)));
    }
    if let Some(bad) = name.chars().find(|c| matches!(c, ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')) {
        return Err(format!("invalid character {} in host name", quote(&bad.to_string())));
    }
    Ok(host.to_owned())
}

/// Go keeps what is written if it is a valid encoding, and encodes anew what is not.
fn encoded(text: &str, is_plain: fn(u8) -> bool) -> Result<String, String> {
    let decoded = unescape(text)?;
    let valid = |byte: u8| matches!(byte, b'!' | b'\'' | b'(' | b')' | b'*' | b'[' | b']' | b'%') || is_plain(byte);
    if text.bytes().all(valid) { Ok(text.to_owned()) } else { Ok(escape(&decoded, is_plain)) }
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            decoded.push(bytes[at]);
            at += 1;
            continue;
        }
        let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.filter(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            Some(pair) => decoded.push(u8::from_str_radix(pair, 16).unwrap_or(b'%')),
            None => {
                let shown = String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 3)]);
                return Err(format!("invalid URL escape {}", quote(&shown)));
            }
        }
        at += 3;
    }
    Ok(decoded)
}

fn escape(bytes: &[u8], is_plain: fn(u8) -> bool) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        if is_plain(*byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
}

fn is_plain_in_path(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@')
}

fn is_plain_in_fragment(byte: u8) -> bool {
    is_plain_in_path(byte) || matches!(byte, b'?' | b'!' | b'(' | b')' | b'*')
}

fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    for segment in &segments {
        match *segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let mut text = format!("/{}", kept.join("/"));
    if matches!(segments.last(), Some(&"." | &"..")) && !text.ends_with('/') {
        text.push('/');
    }
    text
}

/// Go's `%q`, for text that people typed and servers sent.
pub(crate) fn quote(text: &str) -> String {
    quote_bytes(text.as_bytes())
}

pub(crate) fn quote_bytes(bytes: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\u{7}' => quoted.push_str("\\a"),
                '\u{8}' => quoted.push_str("\\b"),
                '\u{c}' => quoted.push_str("\\f"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\u{b}' => quoted.push_str("\\v"),
                c if c < ' ' || c == '\u{7f}' => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => quoted.push(c),
            }
        }
        for byte in chunk.invalid() {
            quoted.push_str(&format!("\\x{byte:02x}"));
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probes_path_becomes_what_kubelet_sends_and_shows() {
        for (path, target, shown) in [
            ("/", "/", "http://h:93/"),
            ("/healthz", "/healthz", "http://h:93/healthz"),
            ("healthz", "/healthz", "http://h:93/healthz"),
            ("/a?b=c&d", "/a?b=c&d", "http://h:93/a?b=c&d"),
            ("/a?", "/a?", "http://h:93/a?"),
            ("?b", "/?b", "http://h:93?b"),
            ("/a#frag", "/a", "http://h:93/a#frag"),
            ("/a b", "/a%20b", "http://h:93/a%20b"),
            ("/a%20b", "/a%20b", "http://h:93/a%20b"),
            ("/%zz?x", "/%25zz%3Fx", "http://h:93/%25zz%3Fx"),
            ("/ü", "/%C3%BC", "http://h:93/%C3%BC"),
            ("//other/x", "/x", "http://h:93/x"),
            ("https://other:1/x?y", "/x?y", "http://h:93/x?y"),
            ("a:b/c", "b/c", "http:b/c"),
            ("/a(b)", "/a(b)", "http://h:93/a(b)"),
            ("/a?x y", "/a?x y", "http://h:93/a?x y"),
        ] {
            let url = Url::of_probe("http", "h", 93, path).unwrap();
            assert_eq!((url.request_target().as_str(), url.to_string().as_str()), (target, shown), "{path}");
        }
    }

    #[test]
    fn ipv6_gets_brackets_and_loses_them() {
        let url = Url::of_probe("http", "fd00::1", 80, "/").unwrap();
        assert_eq!((url.host.as_str(), url.host_name(), url.port()), ("[fd00::1]:80", "fd00::1", Some(80)));
    }

    #[test]
    fn a_location_is_resolved_as_a_browser_does() {
        let base = Url::parse("http://h:93/a/b?q#f").unwrap();
        for (location, url) in [
            ("/x", "http://h:93/x"),
            ("x", "http://h:93/a/x"),
            ("../x", "http://h:93/x"),
            ("../../../x/.", "http://h:93/x/"),
            ("?z", "http://h:93/a/b?z"),
            ("", "http://h:93/a/b?q#f"),
            ("//other/x", "http://other/x"),
            ("https://h/y/../x", "https://h/x"),
            ("https://h", "https://h"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), url, "{location}");
        }
    }

    #[test]
    fn errors_read_as_gos() {
        for (text, error) in [
            ("http://h/%zz", r#"parse "http://h/%zz": invalid URL escape "%zz""#),
            (":x", r#"parse ":x": missing protocol scheme"#),
            ("a b:c", r#"parse "a b:c": first path segment in URL cannot contain colon"#),
            ("http://h:x/", r#"parse "http://h:x/": invalid port ":x" after host"#),
            ("http://[::1/", r#"parse "http://[::1/": missing ']' in host"#),
            ("\u{1}", r#"parse "\x01": net/url: invalid control character in URL"#),
        ] {
            assert_eq!(Url::parse(text).unwrap_err(), error);
        }
    }

    #[test]
    fn ports_that_are_not_given_go_with_the_scheme() {
        assert_eq!(Url::parse("https://h/").unwrap().port(), Some(443));
        assert_eq!(Url::parse("http://h").unwrap().port(), Some(80));
        assert_eq!(Url::parse("http://h:99999").unwrap().port(), None);
    }

    #[test]
    fn bytes_are_quoted_as_go_quotes_them() {
        assert_eq!(quote_bytes(b"\x15\x03\x01\x00\xffa\"\\\n"), r#""\x15\x03\x01\x00\xffa\"\\\n""#);
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_people_type_or_servers_send_ends_the_shim(base in ".{0,40}", text in "[a-z:/?#%@.\\[\\]0-9 é\\n*]{0,30}") {
            let probe = Url::of_probe("http", "h", 80, &base);
            for url in [Url::parse(&base), Url::parse(&text), probe].into_iter().flatten() {
                let joined = url.join(&text).map(|joined| (joined.to_string(), joined.request_target(), joined.port()));
                let _ = (joined, url.to_string(), url.host_name().len(), url.port());
                // What is sent stays on the request line.
                proptest::prop_assert!(!url.request_target().contains(['\r', '\n']));
            }
        }
    }
}
