//! Kubernetes quantities as numbers: `100m`, `1.5Gi`, `2e3`.

/// The value in thousandths, rounded up; `None` for what is no quantity (validation has refused it before).
pub(super) fn milli(text: &str) -> Option<i128> {
    let number_len = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_len);
    let (factor, divisor): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1_000, power) } else { (1_000i128.checked_mul(power)?, 1) }
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let scaled: i128 = digits.parse().ok()?;
    let divisor = divisor.checked_mul(10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let value = scaled.checked_mul(factor)?;
    Some(value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0))
}

/// The value in whole units, rounded up.
pub(super) fn units(text: &str) -> Option<i64> {
    let milli = milli(text)?;
    i64::try_from(milli.div_euclid(1_000) + i128::from(milli.rem_euclid(1_000) != 0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_their_value() {
        for (text, expected) in [
            ("1", 1_000),
            ("100m", 100),
            ("0.5", 500),
            (".5", 500),
            ("1500m", 1_500),
            ("2e3", 2_000_000),
            ("1e-3", 1),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("1u", 1),
            ("128M", 128_000_000_000),
        ] {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        assert_eq!(units("100m"), Some(1));
        assert_eq!(units("64Mi"), Some(67_108_864));
        for text in ["", "x", "1x", "1KiB", "1e"] {
            assert_eq!(milli(text), None, "{text:?}");
        }
    }
}
