//! What a plain YAML scalar means to kubectl: YAML 1.1, as Go's `sigs.k8s.io/yaml` resolves it.

use super::Value;

/// `yes`, `0644`, `1_000`, `~`, `.5` and the rest; what is none of these is a string.
pub fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let number = match text.as_bytes()[0] {
        b'.' => text.parse().ok().map(Value::Float),
        b'+' | b'-' | b'0'..=b'9' => number(&text.replace('_', "")),
        _ => None,
    };
    number.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn number(text: &str) -> Option<Value> {
    if let Some(value) = integer(text) {
        return Some(Value::Int(value));
    }
    is_float(text).then(|| text.parse().ok().map(Value::Float)).flatten()
}

/// Go's `ParseInt` with base 0: `0x`, `0o`, `0b`, and a leading 0 is octal.
fn integer(text: &str) -> Option<i128> {
    let (sign, digits) = match text.as_bytes() {
        [b'-', ..] => (-1, &text[1..]),
        [b'+', ..] => (1, &text[1..]),
        _ => (1, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // `from_str_radix` would take a second sign.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    i128::from_str_radix(digits, radix).ok().map(|value| sign * value)
}

/// `^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_mantissa = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && is_digits(fraction),
        Some((whole, fraction)) => is_digits(whole) && is_digits(fraction),
        None => !mantissa.is_empty() && is_digits(mantissa),
    };
    let is_exponent = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && is_digits(digits)
    });
    is_mantissa && is_exponent
}

/// A number as Go's JSON writes it: the shortest digits that are exact, an exponent only where it is far off.
pub fn float_text(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() || (1e-6..1e21).contains(&magnitude) {
        return format!("{value}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) if !exponent.starts_with('-') => format!("{mantissa}e+{exponent}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Value) {
        assert_eq!(resolve(text), expected, "{text:?}");
    }

    #[test]
    fn plain_scalars_are_read_as_yaml_1_1() {
        for text in ["", "~", "null", "NULL"] {
            check(text, Value::Null);
        }
        for text in ["y", "Yes", "on", "TRUE"] {
            check(text, Value::Bool(true));
        }
        for text in ["n", "NO", "Off", "false"] {
            check(text, Value::Bool(false));
        }
        for (text, value) in [
            ("0", 0),
            ("80", 80),
            ("0644", 0o644),
            ("0o644", 0o644),
            ("0x1F", 31),
            ("0b11", 3),
            ("-0b11", -3),
            ("1_000", 1000),
            ("0_644", 0o644),
            ("+5", 5),
            ("-7", -7),
            ("18446744073709551615", 18_446_744_073_709_551_615),
            ("99999999999999999999", 99_999_999_999_999_999_999),
        ] {
            check(text, Value::Int(value));
        }
        for (text, value) in [("0.5", 0.5), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("08", 8.0), ("-1.5E-2", -0.015)]
        {
            check(text, Value::Float(value));
        }
        for text in [
            "yEs",
            "tRue",
            "nULL",
            "0x",
            "0o8",
            "0b2",
            "1.2.3",
            "1e",
            "-",
            "+",
            "--1",
            "+-1",
            "1-2",
            "2024-01-02",
            "12:30:45",
            "1Gi",
            "100m",
            "_1",
            ".",
            ".x",
            "0xfg",
            "e5",
            "<<",
            "/bin/sh",
            "10.0.0.1",
        ] {
            check(text, Value::String(text.to_owned()));
        }
        assert!(matches!(resolve(".NaN"), Value::Float(value) if value.is_nan()));
        assert_eq!(resolve("-.inf"), Value::Float(f64::NEG_INFINITY));
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (value, text) in [
            (0.5, "0.5"),
            (80.0, "80"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (-2.5e30, "-2.5e+30"),
        ] {
            assert_eq!(float_text(value), text);
        }
    }
}
