//! Base64 of `data` in Secrets and of `binaryData` in ConfigMaps, as Go's JSON reads it.

/// Standard alphabet with padding; line breaks do not count. `None`: not base64.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect();
    if !bytes.len().is_multiple_of(4) {
        return None;
    }
    let padding = bytes.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    let digits = &bytes[..bytes.len() - padding];
    let mut result = Vec::with_capacity(bytes.len() / 4 * 3);
    for group in digits.chunks(4) {
        let mut value = 0_u32;
        for byte in group {
            value = value << 6 | u32::from(digit(*byte)?);
        }
        let bytes = (value << (6 * (4 - group.len()))).to_be_bytes();
        result.extend(&bytes[1..group.len()]);
    }
    Some(result)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn base64_is_read_as_go_reads_it() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("YQ==", b"a"),
            ("YWI=", b"ab"),
            ("YWJj", b"abc"),
            ("YWJj\nZGVm\n", b"abcdef"),
            ("/+8=", b"\xff\xef"),
        ] {
            assert_eq!(decode(text).as_deref(), Some(bytes), "{text}");
        }
        for text in ["a", "ab", "abc", "YQ=", "Y===", "====", "YQ==YQ==", "a b=", "YW-_", "ä"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
