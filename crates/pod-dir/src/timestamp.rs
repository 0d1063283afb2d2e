//! RFC 3339 text from and to wall time. The clock itself is read by the callers.

use jiff::Timestamp;
use killick_pod::time::Wall;

/// `2024-01-02T03:04:05Z`.
pub fn text(wall: Wall) -> String {
    Timestamp::from_second(wall.0).map(|stamp| stamp.to_string()).unwrap_or_default()
}

/// `None` for what is no RFC 3339 timestamp; fractions of a second are dropped.
pub fn parse(text: &str) -> Option<Wall> {
    text.parse::<Timestamp>().ok().map(|stamp| Wall(stamp.as_second()))
}

/// `2024-01-02T03:04:05.123456789Z`, always nine digits: log lines sort as text.
pub fn text_nanos(nanos: i128) -> String {
    match Timestamp::from_nanosecond(nanos) {
        Ok(stamp) => format!("{stamp:.9}"),
        Err(_) => String::new(),
    }
}

pub fn parse_nanos(text: &str) -> Option<i128> {
    text.parse::<Timestamp>().ok().map(|stamp| stamp.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_nanoseconds_survive_the_round_trip() {
        let wall = Wall(1_704_164_645);
        assert_eq!(text(wall), "2024-01-02T03:04:05Z");
        assert_eq!(parse("2024-01-02T03:04:05Z"), Some(wall));
        assert_eq!(parse("2024-01-02T05:04:05.9+02:00"), Some(wall));
        assert_eq!(parse("yesterday"), None);
        let nanos = 1_704_164_645_123_000_000;
        assert_eq!(text_nanos(nanos), "2024-01-02T03:04:05.123000000Z");
        assert_eq!(parse_nanos("2024-01-02T03:04:05.123Z"), Some(nanos));
    }
}
