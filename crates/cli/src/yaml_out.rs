//! YAML as kubectl prints it: keys sorted, sequences not indented, strings quoted where Go's library quotes them.

use serde_json::Value;

/// The value as a YAML document, without `---`.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(value, 0, &mut out),
        Value::Array(items) if !items.is_empty() => sequence(items, 0, &mut out),
        scalar => {
            write_scalar(scalar, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn mapping(value: &Value, indent: usize, out: &mut String) {
    let Value::Object(map) = value else { return };
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort();
    for (place, key) in keys.into_iter().enumerate() {
        if place > 0 {
            blanks(indent, out);
        }
        out.push_str(&plain_or_quoted(key));
        out.push(':');
        match &map[key] {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                blanks(indent + 2, out);
                mapping(&map[key], indent + 2, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                blanks(indent, out);
                sequence(items, indent, out);
            }
            scalar => {
                out.push(' ');
                write_scalar(scalar, indent + 2, out);
                out.push('\n');
            }
        }
    }
}

fn sequence(items: &[Value], indent: usize, out: &mut String) {
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            blanks(indent, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => mapping(item, indent + 2, out),
            Value::Array(inner) if !inner.is_empty() => sequence(inner, indent + 2, out),
            scalar => {
                write_scalar(scalar, indent + 2, out);
                out.push('\n');
            }
        }
    }
}

fn blanks(count: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', count));
}

fn write_scalar(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
        Value::String(text) if text.contains('\n') && block_allowed(text) => literal(text, indent, out),
        Value::String(text) => out.push_str(&plain_or_quoted(text)),
    }
}

/// `|` with its chomping mark; an indentation mark where the text begins with white space.
fn literal(text: &str, indent: usize, out: &mut String) {
    out.push('|');
    if text.starts_with([' ', '\n']) {
        out.push('2');
    }
    if !text.ends_with('\n') {
        out.push('-');
    } else if text.ends_with("\n\n") || text == "\n" {
        out.push('+');
    }
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            blanks(indent, out);
            out.push_str(line);
        }
    }
}

/// A blank before a line's end, or what cannot be printed, needs the escapes of double quotes.
fn block_allowed(text: &str) -> bool {
    !text.contains(" \n") && text.chars().all(|letter| letter == '\n' || letter == '\t' || is_printable(letter))
}

fn plain_or_quoted(text: &str) -> String {
    if reads_as_something_else(text) || text.contains('\n') {
        return double_quoted(text);
    }
    if text.chars().any(|letter| !is_printable(letter)) {
        return double_quoted(text);
    }
    if plain_allowed(text) { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) }
}

/// YAML's rules for a plain scalar in block context, as libyaml's emitter checks them.
fn plain_allowed(text: &str) -> bool {
    if text.starts_with("---") || text.starts_with("...") || text.starts_with(' ') || text.ends_with(' ') {
        return false;
    }
    let letters: Vec<char> = text.chars().collect();
    let blank_at = |place: usize| letters.get(place).is_none_or(|letter| *letter == ' ');
    for (place, letter) in letters.iter().enumerate() {
        let forbidden = match letter {
            '#' => place == 0 || letters[place - 1] == ' ',
            ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => place == 0,
            '?' | '-' => place == 0 && blank_at(1),
            ':' => blank_at(place + 1),
            _ => false,
        };
        if forbidden {
            return false;
        }
    }
    true
}

/// Whether a reader would take the plain word for null, a boolean, a number, a time or a merge key.
fn reads_as_something_else(text: &str) -> bool {
    const WORDS: [&str; 13] = ["", "~", "null", "true", "false", "y", "n", "yes", "no", "on", "off", "<<", "="];
    let lower = text.to_ascii_lowercase();
    let cased = |word: &str| {
        let mut first_upper = word.to_owned();
        if let Some(first) = first_upper.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        text == word || text == first_upper || text == word.to_ascii_uppercase()
    };
    if WORDS[..11].iter().any(|word| cased(word)) || text == "<<" {
        return true;
    }
    let unsigned = lower.strip_prefix(['+', '-']).unwrap_or(&lower);
    if matches!(unsigned, ".inf" | ".nan") && (unsigned == ".inf" || unsigned.len() == lower.len()) {
        return true;
    }
    is_number(unsigned) || is_base_60(unsigned) || is_time(text)
}

fn is_number(unsigned: &str) -> bool {
    let digits = unsigned.replace('_', "");
    let all = |text: &str, radix: u32| !text.is_empty() && text.chars().all(|digit| digit.is_digit(radix));
    if let Some(rest) = digits.strip_prefix("0x") {
        return all(rest, 16);
    }
    if let Some(rest) = digits.strip_prefix("0b") {
        return all(rest, 2);
    }
    if let Some(rest) = digits.strip_prefix("0o") {
        return all(rest, 8);
    }
    // `1`, `1.5`, `.5`, `1.`, `1e3`; Go's parser also takes `1e3` written as `1E+3`.
    let starts = digits.starts_with(|letter: char| letter.is_ascii_digit() || letter == '.');
    starts && digits.bytes().any(|byte| byte.is_ascii_digit()) && digits.parse::<f64>().is_ok()
}

/// YAML 1.1 reads `1:30` as 90.
fn is_base_60(unsigned: &str) -> bool {
    let mut parts = unsigned.split(':');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    !rest.is_empty()
        && first.starts_with(|letter: char| letter.is_ascii_digit())
        && first.chars().all(|letter| letter.is_ascii_digit() || letter == '_')
        && rest.iter().enumerate().all(|(place, part)| {
            let whole = match part.split_once('.') {
                Some((whole, fraction)) if place + 1 == rest.len() => {
                    if !fraction.chars().all(|letter| letter.is_ascii_digit() || letter == '_') {
                        return false;
                    }
                    whole
                }
                Some(_) => return false,
                None => part,
            };
            matches!(whole.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9'])
        })
}

/// `2024-01-02` and `2024-01-02T03:04:05Z` with their variants.
fn is_time(text: &str) -> bool {
    let Some((date, rest)) = text.split_at_checked(10).or(Some((text, ""))) else { return false };
    let is_date = date.parse::<jiff::civil::Date>().is_ok() && date.len() == 10 && date.as_bytes()[4] == b'-';
    is_date
        && (rest.is_empty()
            || (rest.starts_with(['T', 't', ' '])
                && text.replacen([' ', 't'], "T", 1).parse::<jiff::Timestamp>().is_ok())
            || (rest.starts_with(' ') && date_and_clock(rest)))
}

fn date_and_clock(rest: &str) -> bool {
    rest.trim_start().parse::<jiff::civil::Time>().is_ok()
}

fn is_printable(letter: char) -> bool {
    matches!(letter, ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{0}' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\u{1b}' => out.push_str("\\e"),
            letter if is_printable(letter) => out.push(letter),
            letter if u32::from(letter) <= 0xff => out.push_str(&format!("\\x{:02X}", u32::from(letter))),
            letter if u32::from(letter) <= 0xffff => out.push_str(&format!("\\u{:04X}", u32::from(letter))),
            letter => out.push_str(&format!("\\U{:08X}", u32::from(letter))),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_and_sequences_stand_under_their_key() {
        let value = json!({
            "spec": {"containers": [{"name": "a", "args": ["x", ["z"]], "resources": {}}], "empty": []},
            "apiVersion": "v1",
        });
        let text = "\
apiVersion: v1
spec:
  containers:
  - args:
    - x
    - - z
    name: a
    resources: {}
  empty: []
";
        assert_eq!(document(&value), text);
    }

    #[test]
    fn strings_are_quoted_as_go_quotes_them() {
        let cases = [
            ("plain", "plain"),
            ("", "\"\""),
            ("true", "\"true\""),
            ("yes", "\"yes\""),
            ("Off", "\"Off\""),
            ("oN", "oN"),
            ("null", "\"null\""),
            ("~", "\"~\""),
            ("1", "\"1\""),
            ("0644", "\"0644\""),
            ("1.5", "\"1.5\""),
            ("1e3", "\"1e3\""),
            ("0x1f", "\"0x1f\""),
            ("1.2.3", "1.2.3"),
            ("100m", "100m"),
            ("10.88.0.2", "10.88.0.2"),
            ("1:30", "\"1:30\""),
            ("2024-01-02T03:04:05Z", "\"2024-01-02T03:04:05Z\""),
            ("2024-01-02", "\"2024-01-02\""),
            ("a: b", "'a: b'"),
            ("a:b", "a:b"),
            ("ends:", "'ends:'"),
            ("a #b", "'a #b'"),
            ("-c", "-c"),
            ("- c", "'- c'"),
            ("*", "'*'"),
            ("[a]", "'[a]'"),
            ("it's", "it's"),
            ("'it'", "'''it'''"),
            ("{\"a\": 1}", "'{\"a\": 1}'"),
            (" x", "' x'"),
            ("a\tb", "\"a\\tb\""),
            ("\u{1b}[0m", "\"\\e[0m\""),
            ("日本", "日本"),
        ];
        for (text, written) in cases {
            assert_eq!(document(&json!(text)), format!("{written}\n"), "{text:?}");
        }
    }

    #[test]
    fn lines_are_written_as_a_literal_block() {
        assert_eq!(document(&json!({"a": "x\ny"})), "a: |-\n  x\n  y\n");
        assert_eq!(document(&json!({"a": "x\ny\n"})), "a: |\n  x\n  y\n");
        assert_eq!(document(&json!({"a": "x\n\n"})), "a: |+\n  x\n\n");
        assert_eq!(document(&json!({"a": "  x\ny\n"})), "a: |2\n    x\n  y\n");
        assert_eq!(document(&json!({"a": ["x\n  y\n"]})), "a:\n- |\n  x\n    y\n");
        assert_eq!(document(&json!({"a": "x \ny"})), "a: \"x \\ny\"\n");
    }
}
