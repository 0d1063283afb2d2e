//! Kubernetes quantities (`100m`, `1.5Gi`, `12e6`): exact values, and the canonical text that the API prints.
//!
//! A value is held in billionths: that is the API's finest step; what is finer is rounded up, as the API does.

use std::cmp::Ordering;
use std::fmt;

const NANO: i128 = 1_000_000_000;
/// Greater ones are cut to this, as the API does.
const VALUE_MAX: i128 = i64::MAX as i128;
/// More digits of a number than these cannot change its value in billionths below `VALUE_MAX` times a suffix.
const SIGNIFICANT_DIGITS: usize = 20;

/// How a quantity was written, and is printed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `n`, `u`, `m`, nothing, `k`, `M` … `E`.
    Decimal,
    /// `Ki` … `Ei`.
    Binary,
    /// `12e6`.
    Exponent,
}

#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nano: 0, format: Format::Decimal };

    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        if number.is_empty() || !is_suffix_shaped(suffix) {
            return Err(QuantityError::Format);
        }
        let (digits, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (digits.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Numeric);
        }
        let (format, power_of_10, power_of_2) = scale(suffix).ok_or(QuantityError::Suffix)?;
        let all: String = digits.chars().chain(fraction.chars()).collect();
        let point = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
        let nano = to_nano(&all, power_of_10.saturating_sub(point), power_of_2);
        Ok(Quantity { nano: if negative { -nano } else { nano }, format })
    }

    pub fn from_value(value: i64) -> Quantity {
        Quantity { nano: i128::from(value) * NANO, format: Format::Decimal }
    }

    /// Thousandths (of a CPU), rounded up.
    pub fn milli(&self) -> i64 {
        saturate(div_ceil(self.nano, NANO / 1000))
    }

    /// Whole units (bytes), rounded up.
    pub fn value(&self) -> i64 {
        saturate(div_ceil(self.nano, NANO))
    }

    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// Is nothing smaller than a thousandth in it?
    pub fn is_whole_milli(&self) -> bool {
        self.nano % (NANO / 1000) == 0
    }

    pub fn is_whole(&self) -> bool {
        self.nano % NANO == 0
    }

    /// The same with what is below a thousandth rounded up (what defaulting does to requests and limits).
    pub fn round_up_to_milli(&self) -> Quantity {
        let milli = NANO / 1000;
        Quantity { nano: div_ceil(self.nano, milli) * milli, format: self.format }
    }

    /// `ceil(self / divisor)`: what `resourceFieldRef` gives. A divisor of zero counts as one.
    pub fn div_ceil(&self, divisor: &Quantity) -> i64 {
        saturate(div_ceil(self.nano, if divisor.nano == 0 { NANO } else { divisor.nano }))
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        let format = if self.nano == 0 { other.format } else { self.format };
        Quantity { nano: cap(self.nano + other.nano), format }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

/// The canonical form: no fraction, the greatest suffix that is exact (`0.5` → `500m`, `1024Mi` → `1Gi`).
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.nano / NANO;
        if self.format == Format::Binary && self.nano % NANO == 0 && value.abs() >= 1024 {
            let (mut mantissa, mut suffixes) = (value, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter());
            let mut suffix = suffixes.next();
            while mantissa % 1024 == 0 && suffix != Some(&"Ei") {
                (mantissa, suffix) = (mantissa / 1024, suffixes.next());
            }
            return write!(f, "{mantissa}{}", suffix.unwrap_or(&""));
        }
        if self.nano == 0 {
            return f.write_str("0");
        }
        let (mut mantissa, mut power) = (self.nano, -9);
        while mantissa % 1000 == 0 && power < 18 {
            (mantissa, power) = (mantissa / 1000, power + 3);
        }
        match self.format {
            Format::Exponent if power == 0 => write!(f, "{mantissa}"),
            Format::Exponent => write!(f, "{mantissa}e{power}"),
            Format::Decimal | Format::Binary => write!(f, "{mantissa}{}", decimal_suffix(power)),
        }
    }
}

fn decimal_suffix(power: i32) -> &'static str {
    match power {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        18 => "E",
        _ => "",
    }
}

/// `[eEinumkKMGTP]*[-+]?[0-9]*`
fn is_suffix_shaped(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|byte| byte.is_ascii_digit())
}

/// The suffix as a format, a power of ten and a power of two.
fn scale(suffix: &str) -> Option<(Format, i64, u32)> {
    let decimal = |power| Some((Format::Decimal, power, 0));
    let binary = |power| Some((Format::Binary, 0, power));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            Some((Format::Exponent, i64::from(exponent.parse::<i32>().ok()?), 0))
        }
    }
}

/// `digits × 10^power_of_10 × 2^power_of_2` in billionths, rounded up, cut to `VALUE_MAX`.
fn to_nano(digits: &str, power_of_10: i64, power_of_2: u32) -> i128 {
    let digits = digits.trim_start_matches('0');
    let (kept, dropped) = digits.split_at(digits.len().min(SIGNIFICANT_DIGITS));
    let kept = kept.parse::<i128>().unwrap_or(0);
    if kept == 0 {
        return 0;
    }
    // A digit that was dropped counts as a bit more, so that rounding up stays right.
    let more = i128::from(dropped.bytes().any(|byte| byte != b'0'));
    let mantissa = (kept + more) << power_of_2;
    let power = power_of_10.saturating_add(9).saturating_add(i64::try_from(dropped.len()).unwrap_or(i64::MAX));
    let power_of_ten = |power: i64| 10_i128.checked_pow(u32::try_from(power).unwrap_or(u32::MAX));
    let nano = match power {
        0.. => power_of_ten(power).and_then(|factor| mantissa.checked_mul(factor)).unwrap_or(i128::MAX),
        _ => power_of_ten(power.saturating_neg()).map_or(1, |divisor| div_ceil(mantissa, divisor)),
    };
    cap(nano)
}

fn cap(nano: i128) -> i128 {
    nano.clamp(-VALUE_MAX * NANO, VALUE_MAX * NANO)
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Away from zero, as the API rounds.
fn div_ceil(value: i128, divisor: i128) -> i128 {
    let (quotient, remainder) = (value / divisor, value % divisor);
    match (remainder == 0, (value < 0) == (divisor < 0)) {
        (true, _) => quotient,
        (false, true) => quotient + 1,
        (false, false) => quotient - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, milli: i64, value: i64, canonical: &str) {
        let quantity = Quantity::parse(text).unwrap();
        assert_eq!((quantity.milli(), quantity.value()), (milli, value), "{text}");
        assert_eq!(quantity.to_string(), canonical, "{text}");
    }

    #[test]
    fn values_and_canonical_forms_are_the_apis() {
        check("0", 0, 0, "0");
        check("-0", 0, 0, "0");
        check("100m", 100, 1, "100m");
        check("0.5", 500, 1, "500m");
        check(".5", 500, 1, "500m");
        check("1.", 1000, 1, "1");
        check("2", 2000, 2, "2");
        check("1000m", 1000, 1, "1");
        check("1500m", 1500, 2, "1500m");
        check("+1", 1000, 1, "1");
        check("-1.5", -1500, -2, "-1500m");
        check("1n", 1, 1, "1n");
        check("0.1n", 1, 1, "1n");
        check("1.0000000001", 1001, 2, "1000000001n");
        check("64Mi", (64 << 20) * 1000, 64 << 20, "64Mi");
        check("1024Mi", (1 << 30) * 1000, 1 << 30, "1Gi");
        check("1.5Gi", (3 << 29) * 1000, 3 << 29, "1536Mi");
        check("1000Ki", 1_024_000_000, 1_024_000, "1000Ki");
        check("0.5Ki", 512_000, 512, "512");
        check("1k", 1_000_000, 1000, "1k");
        check("128974848", 128_974_848_000, 128_974_848, "128974848");
        check("129e6", 129_000_000_000, 129_000_000, "129e6");
        check("129E6", 129_000_000_000, 129_000_000, "129e6");
        check("1e3", 1_000_000, 1000, "1e3");
        check("1e-3", 1, 1, "1e-3");
        check("12345678901234567890123", i64::MAX, i64::MAX, "9223372036854775807");
        check("100E", i64::MAX, i64::MAX, "9223372036854775807");
        check("8Ei", i64::MAX, i64::MAX, "9223372036854775807");
        check("1e999999", i64::MAX, i64::MAX, "9223372036854775807");
        check("1e-999999", 1, 1, "1e-9");
        check("00000000000000000000000000000000000001", 1000, 1, "1");
        check("0.000000000000000000000000000000000000000000001", 1, 1, "1n");
    }

    #[test]
    fn what_is_no_quantity_is_refused_in_the_apis_words() {
        for text in ["", "m", "abc", "1 Gi", " 1", "1x", "1Kib3x", "--1", "1e5.5", "10 m", "ä"] {
            assert_eq!(Quantity::parse(text).unwrap_err(), QuantityError::Format, "{text:?}");
        }
        for text in ["1.1.1", "."] {
            assert_eq!(Quantity::parse(text).unwrap_err(), QuantityError::Numeric, "{text:?}");
        }
        for text in ["1K", "1KiB", "1mm", "1i", "1e", "1M5", "1e99999999999"] {
            assert!(Quantity::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Quantity::parse("1K").unwrap_err(), QuantityError::Suffix);
    }

    #[test]
    fn quantities_are_compared_by_value() {
        let quantity = |text| Quantity::parse(text).unwrap();
        assert_eq!(quantity("1"), quantity("1000m"));
        assert!(quantity("1Gi") > quantity("1G"));
        assert!(quantity("-1").is_negative());
        assert_eq!(quantity("1.0001m").round_up_to_milli().to_string(), "2m");
        assert_eq!((quantity("1Gi") + quantity("1Gi")).to_string(), "2Gi");
        assert_eq!(quantity("1500m").div_ceil(&quantity("1")), 2);
        assert_eq!(quantity("1500m").div_ceil(&quantity("1m")), 1500);
        assert_eq!(quantity("64Mi").div_ceil(&quantity("1Mi")), 64);
        assert_eq!(quantity("7").div_ceil(&Quantity::ZERO), 7);
    }
}
