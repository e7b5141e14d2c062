//! Texts of settings, read into values; each reader says what it would have taken.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::model::Durability;
use crate::core::base::units::{ByteSize, DurationArg};

/// What would have been taken; fits after "expected".
pub(super) type Expected = String;

/// Longest tenant or region: they travel in every status and label.
const NAME_BYTES_MAX: usize = 256;

/// Longest DNS name.
const DNS_NAME_BYTES_MAX: usize = 253;

/// Most configured peers; a mesh of more finds them by DNS.
const PEERS_MAX: usize = 256;

pub(super) fn path(text: &str) -> Result<PathBuf, Expected> {
    if text.is_empty() || text.contains('\0') {
        return Err("a path".to_owned());
    }
    Ok(Path::new(text).to_path_buf())
}

pub(super) fn address(text: &str) -> Result<IpAddr, Expected> {
    text.parse().map_err(|_| "an IP address such as 127.0.0.1 or 0.0.0.0".to_owned())
}

pub(super) fn port(text: &str) -> Result<u16, Expected> {
    text.parse().map_err(|_| "a port from 0 to 65535".to_owned())
}

/// At least one byte.
pub(super) fn size(text: &str) -> Result<u64, Expected> {
    let size = text.parse::<ByteSize>().map_err(|error| error.expected.to_owned())?;
    if size.0 == 0 { Err("a size above 0".to_owned()) } else { Ok(size.0) }
}

/// A size with an upper bound.
pub(super) fn size_to(text: &str, bytes_max: u64) -> Result<u64, Expected> {
    size(text).and_then(|bytes| {
        if bytes > bytes_max { Err(format!("a size of at most {}", ByteSize(bytes_max))) } else { Ok(bytes) }
    })
}

/// Whole milliseconds, or a length of time with its unit; above 0.
pub(super) fn duration(text: &str) -> Result<Duration, Expected> {
    let read = match text.parse::<u64>() {
        Ok(ms) => Duration::from_millis(ms),
        Err(_) => {
            text.parse::<DurationArg>().map_err(|_| "milliseconds, or a duration such as 90s, 15m or 7d".to_owned())?.0
        }
    };
    if read.is_zero() { Err("a duration above 0".to_owned()) } else { Ok(read) }
}

/// A whole number from 1 to a bound.
pub(super) fn count(text: &str, max: usize) -> Result<usize, Expected> {
    let bound = || format!("a whole number from 1 to {max}");
    text.parse().ok().filter(|n| (1..=max).contains(n)).ok_or_else(bound)
}

/// RocksDB's open files: a positive number, or -1 for no bound.
pub(super) fn open_files(text: &str) -> Result<i32, Expected> {
    let bound = || "a whole number above 0, or -1 for no bound".to_owned();
    text.parse().ok().filter(|n| *n == -1 || *n > 0).ok_or_else(bound)
}

/// A tenant or region: printable, without a NUL that would collide artifact ids.
pub(super) fn name(text: &str) -> Result<String, Expected> {
    let fits = !text.trim().is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    if fits {
        return Ok(text.to_owned());
    }
    Err(format!("a name of 1 to {NAME_BYTES_MAX} bytes without control characters"))
}

/// A host name, with or without a final dot.
pub(super) fn dns_name(text: &str) -> Result<String, Expected> {
    let letters = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let bare = text.strip_suffix('.').unwrap_or(text);
    if bare.len() <= DNS_NAME_BYTES_MAX && bare.split('.').all(letters) {
        return Ok(text.to_owned());
    }
    Err("a DNS name such as kura-headless.cache.svc, without scheme or port".to_owned())
}

/// A base URL; its text is a node's identity in the mesh, so it is kept as typed but for a final slash.
pub(super) fn base_url(text: &str) -> Result<String, Expected> {
    let expected = || "a URL such as http://10.0.0.7:7443, without a path".to_owned();
    let url = Url::parse(text).map_err(|_| expected())?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let anonymous = url.username().is_empty() && url.password().is_none();
    if url.scheme() != "http" || url.host_str().is_none() {
        return Err("a URL that starts with http:// (peers speak plain HTTP here)".to_owned());
    }
    if bare && anonymous { Ok(text.strip_suffix('/').unwrap_or(text).to_owned()) } else { Err(expected()) }
}

/// Base URLs separated by commas; doubles count once.
pub(super) fn base_urls(text: &str) -> Result<Vec<String>, Expected> {
    let mut urls = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let url = base_url(part)?;
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    if urls.len() > PEERS_MAX { Err(format!("at most {PEERS_MAX} peers")) } else { Ok(urls) }
}

pub(super) fn durability(text: &str) -> Result<Durability, Expected> {
    match text {
        "power" => Ok(Durability::Power),
        "process" => Ok(Durability::Process),
        _ => Err("power or process".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_keep_their_text_but_for_a_final_slash() {
        assert_eq!(base_url("http://Kura-0.kura:7443/").unwrap(), "http://Kura-0.kura:7443");
        for text in
            ["", "kura:7443", "https://kura:7443", "http://", "http://a/b", "http://a?x", "http://u@a", "ftp://a"]
        {
            assert!(base_url(text).is_err(), "{text:?}");
        }
        assert_eq!(base_urls("http://a:1, http://b:2,,http://a:1/").unwrap(), ["http://a:1", "http://b:2"]);
    }

    #[test]
    fn durations_are_milliseconds_or_have_a_unit() {
        assert_eq!(duration("240000").unwrap(), Duration::from_secs(240));
        assert_eq!(duration("15m").unwrap(), Duration::from_secs(900));
        for text in ["0", "0s", "-1", "", "soon"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn bounds_hold_at_both_ends() {
        assert_eq!((count("1", 8), count("8", 8)), (Ok(1), Ok(8)));
        assert!(count("0", 8).is_err() && count("9", 8).is_err() && count("x", 8).is_err());
        assert_eq!((open_files("-1"), open_files("512")), (Ok(-1), Ok(512)));
        assert!(open_files("0").is_err() && open_files("-2").is_err());
        assert!(size("0").is_err() && size_to("2MiB", 1 << 20).is_err());
        assert!(port("65536").is_err() && port("-1").is_err());
    }

    #[test]
    fn names_hold_no_control_characters() {
        for text in ["", " ", "a\0b", "a\nb", &"x".repeat(257)] {
            assert!(name(text).is_err(), "{text:?}");
        }
        for text in ["", "http://x", "a..b", "x:4000", "a b"] {
            assert!(dns_name(text).is_err(), "{text:?}");
        }
        assert!(dns_name("kura-headless.cache.svc.cluster.local.").is_ok());
    }
}
