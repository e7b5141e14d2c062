//! Sizes, shares and durations as people write them, and back.
//!
//! Invariant: what `Display` prints, `FromStr` reads; sizes are binary (`KiB` = 1,024 bytes).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A text is not a size, share or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {text:?}")]
pub struct ParseUnitError {
    /// What would have been read, with an example.
    pub expected: &'static str,
    /// What was given.
    pub text: String,
}

/// A number of bytes: `1048576`, `512KiB`, `1.5GiB`, `200MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

const BINARY_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const DECIMAL_UNITS: [(&str, u64); 4] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];

impl FromStr for ByteSize {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let refuse = || ParseUnitError { expected: "a size such as 1048576, 512KiB or 8GiB", text: text.to_owned() };
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(split).ok_or_else(refuse)?;
        let unit = unit.trim();
        let factor = if unit.is_empty() {
            1
        } else {
            let mut units = BINARY_UNITS.iter().chain(&DECIMAL_UNITS);
            units.find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(refuse)?.1
        };
        scale(number, factor).map(Self).ok_or_else(refuse)
    }
}

/// Exact for whole numbers, rounded down for decimals.
fn scale(number: &str, factor: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let (whole, decimals) = number.split_once('.')?;
    if decimals.is_empty() || decimals.len() > 9 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let numerator = u128::from(decimals.parse::<u64>().ok()?) * u128::from(factor);
    let divisor = 10_u128.pow(u32::try_from(decimals.len()).ok()?);
    let fraction = u64::try_from(numerator / divisor).ok()?;
    whole.parse::<u64>().ok()?.checked_mul(factor)?.checked_add(fraction)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) = BINARY_UNITS.into_iter().find(|(_, factor)| self.0 >= *factor).unwrap_or(("B", 1));
        if factor == 1 || self.0.is_multiple_of(factor) {
            return write!(f, "{} {name}", self.0 / factor);
        }
        let tenths = u128::from(self.0) * 10 / u128::from(factor);
        write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// Bytes a second: `200MiB/s`, `50MB/s`, `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(pub u64);

impl FromStr for ByteRate {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let refuse = |_| ParseUnitError { expected: "a rate such as 200MiB/s", text: text.to_owned() };
        let trimmed = text.trim();
        trimmed.strip_suffix("/s").unwrap_or(trimmed).parse::<ByteSize>().map(|size| Self(size.0)).map_err(refuse)
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", ByteSize(self.0))
    }
}

/// A share of a whole in percent: `10%`, `2.5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent {
    /// Hundredths of a percent, so that the type stays exact.
    pub basis_points: u32,
}

impl Percent {
    /// This share of a number of bytes, rounded up: "at least 10 %" must not be one byte short.
    pub fn of(self, whole: u64) -> u64 {
        let share = (u128::from(whole) * u128::from(self.basis_points)).div_ceil(10_000);
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

impl FromStr for Percent {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let refuse = || ParseUnitError { expected: "a share such as 10%", text: text.to_owned() };
        let number = text.trim().strip_suffix('%').ok_or_else(refuse)?;
        let points = scale(number.trim(), 100).filter(|points| *points <= 10_000).ok_or_else(refuse)?;
        Ok(Self { basis_points: u32::try_from(points).map_err(|_| refuse())? })
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.basis_points % 100 {
            0 => write!(f, "{}%", self.basis_points / 100),
            rest => write!(f, "{}.{rest:02}%", self.basis_points / 100),
        }
    }
}

/// A length of time: `250ms`, `90s`, `15m`, `36h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DurationArg(pub Duration);

const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for DurationArg {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let refuse = || ParseUnitError { expected: "a duration such as 250ms, 90s, 15m or 7d", text: text.to_owned() };
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
        let (number, unit) = text.split_at_checked(split).ok_or_else(refuse)?;
        let (_, factor) = DURATION_UNITS.into_iter().find(|(name, _)| *name == unit.trim()).ok_or_else(refuse)?;
        scale(number, factor).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(refuse)
    }
}

impl fmt::Display for DurationArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let whole = DURATION_UNITS.into_iter().find(|(_, factor)| ms >= *factor && ms.is_multiple_of(*factor));
        let (name, factor) = whole.unwrap_or(("ms", 1));
        write!(f, "{}{name}", ms / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        let size = |text: &str| text.parse::<ByteSize>().map(|size| size.0).ok();
        assert_eq!(size("1048576"), Some(1 << 20));
        assert_eq!(size("512KiB"), Some(512 << 10));
        assert_eq!(size("1.5 GiB"), Some(3 << 29));
        assert_eq!(size("200MB"), Some(200_000_000));
        assert_eq!(size("8gib"), Some(8 << 30));
        for text in ["", "B", "-1", "1.", "1.x", "5 potatoes", "99999999999TiB", "1e3"] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_print_short() {
        let shown = [0, 17, 1 << 10, 1536, 50 << 30].map(|bytes| ByteSize(bytes).to_string());
        assert_eq!(shown, ["0 B", "17 B", "1 KiB", "1.5 KiB", "50 GiB"]);
    }

    #[test]
    fn rates_read_with_and_without_their_unit_of_time() {
        for text in ["1.5MiB/s", "1.5 MiB/s", "1572864"] {
            assert_eq!(text.parse::<ByteRate>().unwrap().to_string(), "1.5 MiB/s", "{text:?}");
        }
        for text in ["", "/s", "5MiB/h", "fast"] {
            assert!(text.parse::<ByteRate>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn shares_round_up_and_stay_below_the_whole() {
        let share: Percent = "2.5%".parse().unwrap();
        assert_eq!((share.of(1000), share.of(1), share.to_string()), (25, 1, "2.50%".to_owned()));
        for text in ["10", "101%", "%", "-1%"] {
            assert!(text.parse::<Percent>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_round_trip() {
        for text in ["250ms", "90s", "15m", "36h", "7d"] {
            assert_eq!(text.parse::<DurationArg>().unwrap().to_string(), text);
        }
        assert!("15".parse::<DurationArg>().is_err());
        assert!("m".parse::<DurationArg>().is_err());
    }
}
