//! The bytes of a request, in the order in which Go's client writes them.

use crate::url::Url;
use killick_pod::spec::HttpHeader;
use std::collections::BTreeMap;

/// Headers by canonical name; the order of a name's values is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(BTreeMap<String, Vec<String>>);

impl Headers {
    /// What a handler asks for, completed as kubelet completes it. `agent` is `kube-probe/1.35`.
    pub(crate) fn of_handler(given: &[HttpHeader], agent: &str) -> Headers {
        let mut headers = Headers::default();
        for header in given {
            headers.0.entry(canonical(&header.name)).or_default().push(header.value.clone());
        }
        headers.0.entry("User-Agent".to_owned()).or_insert_with(|| vec![agent.to_owned()]);
        let accept = headers.0.entry("Accept".to_owned()).or_insert_with(|| vec!["*/*".to_owned()]);
        if accept.first().is_none_or(String::is_empty) {
            headers.0.remove("Accept");
        }
        headers
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.get(name).and_then(|values| values.first()).map_or("", String::as_str)
    }

    pub(crate) fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), vec![value]);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Go refuses a value with control characters before it dials.
    fn invalid(&self) -> Option<&str> {
        let bad = |value: &String| value.bytes().any(|byte| byte != b'\t' && (byte < 0x20 || byte == 0x7f));
        self.0.iter().find(|(_, values)| values.iter().any(bad)).map(|(name, _)| name.as_str())
    }
}

/// `host` is what the `Host` header says. `Err` is Go's text.
pub(crate) fn bytes(url: &Url, host: &str, headers: &Headers) -> Result<Vec<u8>, String> {
    /// Written elsewhere, or never by a client without a body.
    const NOT_AMONG_THE_OTHERS: [&str; 5] = ["Host", "User-Agent", "Content-Length", "Transfer-Encoding", "Trailer"];
    if let Some(name) = headers.invalid() {
        return Err(format!("net/http: invalid header field value for {}", crate::url::quote(name)));
    }
    if host.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err("http: invalid Host header".to_owned());
    }
    let mut text = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", url.request_target(), without_zone(host));
    let agent = headers.get("User-Agent");
    if !agent.is_empty() {
        text.push_str(&format!("User-Agent: {}\r\n", agent.trim()));
    }
    for (name, values) in headers.0.iter().filter(|(name, _)| !NOT_AMONG_THE_OTHERS.contains(&name.as_str())) {
        for value in values {
            text.push_str(&format!("{name}: {}\r\n", value.trim()));
        }
    }
    let closes = |value: &String| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("close"));
    if !headers.0.get("Connection").is_some_and(|values| values.iter().any(closes)) {
        text.push_str("Connection: close\r\n");
    }
    text.push_str("\r\n");
    Ok(text.into_bytes())
}

/// A scope like `%eth0` means nothing to the other side (RFC 6874).
fn without_zone(host: &str) -> String {
    match (host.starts_with('['), host.find('%'), host.rfind(']')) {
        (true, Some(zone), Some(end)) if zone < end => format!("{}{}", &host[..zone], &host[end..]),
        _ => host.to_owned(),
    }
}

/// `x-my-HEADER` is `X-My-Header`.
pub(crate) fn canonical(name: &str) -> String {
    let mut upper = true;
    name.chars()
        .map(|c| {
            let made = if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            upper = c == '-';
            made
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &[(&str, &str)], expected: &str) {
        let given: Vec<HttpHeader> = given
            .iter()
            .map(|(name, value)| HttpHeader { name: (*name).to_owned(), value: (*value).to_owned() })
            .collect();
        let url = Url::of_probe("http", "10.88.0.2", 80, "/x?y").unwrap();
        let headers = Headers::of_handler(&given, "kube-probe/1.35");
        let host = if headers.get("Host").is_empty() { url.host.as_str() } else { headers.get("Host") };
        let sent = String::from_utf8(bytes(&url, host, &headers).unwrap()).unwrap();
        assert_eq!(sent.replace("\r\n", "|"), expected, "{given:?}");
    }

    #[test]
    fn requests_are_byte_for_byte_kubelets() {
        check(&[], "GET /x?y HTTP/1.1|Host: 10.88.0.2:80|User-Agent: kube-probe/1.35|Accept: */*|Connection: close||");
        check(
            &[("x-b", "1"), ("X-A", " 2 "), ("X-B", "3"), ("host", "web.local")],
            "GET /x?y HTTP/1.1|Host: web.local|User-Agent: kube-probe/1.35|Accept: */*|X-A: 2|X-B: 1|X-B: 3|\
             Connection: close||",
        );
        check(
            &[("user-agent", ""), ("accept", ""), ("Content-Length", "7")],
            "GET /x?y HTTP/1.1|Host: 10.88.0.2:80|Connection: close||",
        );
        check(
            &[("User-Agent", "me"), ("Accept", "text/html"), ("connection", "Close"), ("Host", "")],
            "GET /x?y HTTP/1.1|Host: 10.88.0.2:80|User-Agent: me|Accept: text/html|Connection: Close||",
        );
    }

    #[test]
    fn a_line_break_in_a_value_is_refused() {
        let headers = Headers::of_handler(&[HttpHeader { name: "x-a".into(), value: "1\r\nX-Evil: 2".into() }], "a");
        let url = Url::of_probe("http", "h", 80, "/").unwrap();
        assert_eq!(bytes(&url, "h", &headers).unwrap_err(), "net/http: invalid header field value for \"X-A\"");
    }
}
