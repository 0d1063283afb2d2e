//! A response, read from whatever brings bytes. Limits come first: what answers here is anybody's program.

use super::stream::Stream;
use crate::url::{quote, quote_bytes};
use std::io;

/// Go's client allows 10 MiB; a shim holds its heap below one.
pub(crate) const HEADER_BYTES_MAX: usize = 256 << 10;
pub(crate) const BODY_BYTES_MAX: usize = 10 * 1024;
const INFORMATIONAL_MAX: u32 = 5;
const CHUNK_LINE_BYTES_MAX: usize = 4096;
const READ_BYTES: usize = 4096;

/// What went wrong, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpError(pub(crate) String);

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked,
    UntilClosed,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Bytes that came and were not used yet.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    stream: &'a mut Stream,
    buffer: Vec<u8>,
    /// Header bytes still allowed.
    left: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(stream: &'a mut Stream) -> Reader<'a> {
        Reader { stream, buffer: Vec::new(), left: HEADER_BYTES_MAX }
    }

    /// Status line and headers of the final response.
    pub(crate) async fn response(&mut self) -> Result<Response, HttpError> {
        if self.fill().await.map_err(|error| self.stream.text("read", &error))? == 0 {
            return Err(HttpError("EOF".to_owned()));
        }
        for _ in 0..=INFORMATIONAL_MAX {
            let response = self.head().await.map_err(|HttpError(text)| {
                // Go names this one alone.
                let alone = text.starts_with("net/http: server response headers exceeded");
                HttpError(if alone { text } else { format!("net/http: HTTP/1.x transport connection broken: {text}") })
            })?;
            if !(100..200).contains(&response.status) || response.status == 101 {
                return Ok(response);
            }
        }
        Err(HttpError("net/http: too many 1xx informational responses".to_owned()))
    }

    async fn head(&mut self) -> Result<Response, HttpError> {
        let line = self.line().await?;
        let status = parse_status_line(&line).map_err(HttpError)?;
        let mut headers: Vec<(String, String)> = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            if text.starts_with([' ', '\t']) {
                match headers.last_mut() {
                    Some((_, value)) => {
                        value.push(' ');
                        value.push_str(text.trim());
                    }
                    None => return Err(HttpError(format!("malformed MIME header initial line: {}", quote(&text)))),
                }
                continue;
            }
            match text.split_once(':') {
                Some((name, value)) if !name.is_empty() && !name.contains(' ') => {
                    headers.push((name.to_owned(), value.trim().to_owned()));
                }
                _ => return Err(HttpError(format!("malformed MIME header line: {}", quote(&text)))),
            }
        }
        let body = body_of(status, &headers).map_err(HttpError)?;
        Ok(Response { status, headers, body })
    }

    /// At most `BODY_BYTES_MAX` of the body.
    pub(crate) async fn body(&mut self, response: &Response) -> Result<Vec<u8>, HttpError> {
        let mut body = Vec::new();
        match response.body {
            Body::Length(length) => {
                let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(BODY_BYTES_MAX);
                self.take(&mut body, wanted).await?;
            }
            Body::UntilClosed => {
                while self.buffer.len() < BODY_BYTES_MAX && self.more().await? {}
                body.extend(self.buffer.drain(..).take(BODY_BYTES_MAX));
            }
            Body::Chunked => {
                while body.len() < BODY_BYTES_MAX {
                    self.left = CHUNK_LINE_BYTES_MAX;
                    let line = self.line().await?;
                    let size = parse_chunk_size(&line).map_err(HttpError)?;
                    if size == 0 {
                        break;
                    }
                    let wanted = usize::try_from(size).unwrap_or(usize::MAX).min(BODY_BYTES_MAX - body.len());
                    self.take(&mut body, wanted).await?;
                    if body.len() < BODY_BYTES_MAX && !self.line().await?.is_empty() {
                        return Err(HttpError("malformed chunked encoding".to_owned()));
                    }
                }
            }
        }
        Ok(body)
    }

    async fn take(&mut self, body: &mut Vec<u8>, mut wanted: usize) -> Result<(), HttpError> {
        loop {
            let have = wanted.min(self.buffer.len());
            body.extend(self.buffer.drain(..have));
            wanted -= have;
            if wanted == 0 {
                return Ok(());
            }
            if !self.more().await? {
                return Err(HttpError("unexpected EOF".to_owned()));
            }
        }
    }

    /// A line without its end. `left` bounds it.
    async fn line(&mut self) -> Result<Vec<u8>, HttpError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=searched + end).collect();
                if line.len() > self.left {
                    return Err(self.too_long());
                }
                self.left -= line.len();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(line);
            }
            searched = self.buffer.len();
            if searched >= self.left {
                return Err(self.too_long());
            }
            if !self.more().await? {
                // Go takes what came before the end for a line.
                return match self.buffer.is_empty() {
                    true => Err(HttpError("unexpected EOF".to_owned())),
                    false => Ok(std::mem::take(&mut self.buffer)),
                };
            }
        }
    }

    fn too_long(&self) -> HttpError {
        HttpError(format!("net/http: server response headers exceeded {HEADER_BYTES_MAX} bytes; aborted"))
    }

    /// False at the end.
    async fn more(&mut self) -> Result<bool, HttpError> {
        match self.fill().await {
            Ok(length) => Ok(length > 0),
            Err(error) => Err(self.stream.text("read", &error)),
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let mut bytes = [0; READ_BYTES];
        let length = self.stream.read(&mut bytes).await?;
        self.buffer.extend_from_slice(&bytes[..length]);
        Ok(length)
    }
}

fn parse_status_line(line: &[u8]) -> Result<u16, String> {
    let malformed = || format!("malformed HTTP response {}", quote_bytes(line));
    let text = std::str::from_utf8(line).map_err(|_| malformed())?;
    let (version, rest) = text.split_once(' ').ok_or_else(malformed)?;
    let code = rest.trim_start_matches(' ').split(' ').next().unwrap_or_default();
    let status = code.parse::<u16>().ok().filter(|_| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit()));
    let status = status.ok_or_else(|| format!("malformed HTTP status code {}", quote(code)))?;
    let digits = version.strip_prefix("HTTP/").and_then(|digits| digits.split_once('.'));
    let is_digit = |text: &str| text.len() == 1 && text.as_bytes()[0].is_ascii_digit();
    if digits.is_some_and(|(major, minor)| is_digit(major) && is_digit(minor)) {
        Ok(status)
    } else {
        Err(format!("malformed HTTP version {}", quote(version)))
    }
}

fn body_of(status: u16, headers: &[(String, String)]) -> Result<Body, String> {
    let get = |name: &str| headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    if matches!(status, 100..=199 | 204 | 304) {
        return Ok(Body::Length(0));
    }
    if let Some(encoding) = get("Transfer-Encoding") {
        return match encoding.eq_ignore_ascii_case("chunked") {
            true => Ok(Body::Chunked),
            false => Err(format!("unsupported transfer encoding: {}", quote(encoding))),
        };
    }
    match get("Content-Length") {
        Some(length) => {
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let number = length.parse::<u64>().ok().filter(|_| digits);
            number.map(Body::Length).ok_or_else(|| format!("bad Content-Length {}", quote(length)))
        }
        None => Ok(Body::UntilClosed),
    }
}

fn parse_chunk_size(line: &[u8]) -> Result<u64, String> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    if digits.is_empty() {
        return Err("empty hex number for chunk length".to_owned());
    }
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err("invalid byte in chunk length".to_owned());
    }
    let text = std::str::from_utf8(digits).unwrap_or_default();
    u64::from_str_radix(text, 16).map_err(|_| "http chunk length too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_read_as_go_reads_them() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK", Ok(200)),
            ("HTTP/1.0 404", Ok(404)),
            ("HTTP/1.1  503  x y", Ok(503)),
            ("SSH-2.0-OpenSSH_9.2", Err(r#"malformed HTTP response "SSH-2.0-OpenSSH_9.2""#)),
            ("HTTP/1.1 20 OK", Err(r#"malformed HTTP status code "20""#)),
            ("HTTP/1.1 +20 OK", Err(r#"malformed HTTP status code "+20""#)),
            ("HTTP/x 200 OK", Err(r#"malformed HTTP version "HTTP/x""#)),
            ("220 mail ESMTP", Err(r#"malformed HTTP status code "mail""#)),
        ] {
            assert_eq!(parse_status_line(line.as_bytes()), expected.map_err(str::to_owned), "{line}");
        }
        assert_eq!(parse_status_line(b"\x15\x03\x01"), Err(r#"malformed HTTP response "\x15\x03\x01""#.to_owned()));
    }

    #[test]
    fn bodies_end_where_the_headers_say() {
        let check = |status, headers: &[(&str, &str)], expected: Result<Body, &str>| {
            let headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            assert_eq!(body_of(status, &headers), expected.map_err(str::to_owned), "{headers:?}");
        };
        check(200, &[("content-length", "5")], Ok(Body::Length(5)));
        check(200, &[("Transfer-Encoding", "Chunked"), ("Content-Length", "5")], Ok(Body::Chunked));
        check(200, &[], Ok(Body::UntilClosed));
        check(204, &[("Content-Length", "5")], Ok(Body::Length(0)));
        check(200, &[("Content-Length", "-5")], Err("bad Content-Length \"-5\""));
        check(200, &[("Transfer-Encoding", "gzip")], Err("unsupported transfer encoding: \"gzip\""));
    }

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        assert_eq!(parse_chunk_size(b"1a;x=y"), Ok(26));
        assert_eq!(parse_chunk_size(b"0 "), Ok(0));
        assert_eq!(parse_chunk_size(b"xyz"), Err("invalid byte in chunk length".to_owned()));
        assert_eq!(parse_chunk_size(b""), Err("empty hex number for chunk length".to_owned()));
        assert_eq!(parse_chunk_size(b"11111111111111111"), Err("http chunk length too large".to_owned()));
    }
}
