//! An amount of free space on the command line: a share of the volume or a size.

use crate::core::base::disk::VolumeSpace;
use crate::core::base::units::{ByteSize, ParseUnitError, Percent};

/// An amount of free space: a share of the volume or a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreeSpace {
    /// Of the whole volume.
    Share(Percent),
    /// In bytes.
    Size(ByteSize),
}

impl std::str::FromStr for FreeSpace {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let refuse =
            |_| ParseUnitError { expected: "a share such as 10% or a size such as 5GiB", text: text.to_owned() };
        if text.trim_end().ends_with('%') {
            return text.parse().map(Self::Share).map_err(refuse);
        }
        text.parse().map(Self::Size).map_err(refuse)
    }
}

impl std::fmt::Display for FreeSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Share(share) => share.fmt(f),
            Self::Size(size) => write!(f, "{}", size.0),
        }
    }
}

impl FreeSpace {
    /// In bytes, of a volume.
    pub fn bytes(self, volume: &VolumeSpace) -> u64 {
        match self {
            Self::Share(share) => share.of(volume.total_bytes),
            Self::Size(size) => size.0,
        }
    }
}
