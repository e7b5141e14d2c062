//! Why a node is not ready, or not complete: each reason by its code, whom it is about, and since when it holds.
//!
//! Invariant: a reason is the same one as long as its code and its peer are; numbers and errors in it may change.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A gate that is closed, or a fact worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// One word, such as `catching_up`.
    pub code: String,
    /// The URL its peer gives itself, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Numbers and errors, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Unix milliseconds since when it holds without a break, as far as anybody looked.
    pub since_ms: u64,
}

impl Reason {
    /// About this node as a whole.
    pub(super) fn own(code: &str) -> Self {
        Self { code: code.to_owned(), peer: None, detail: None, since_ms: 0 }
    }

    /// About a peer.
    pub(super) fn of_peer(code: &str, peer: &str, detail: String) -> Self {
        let detail = Some(detail).filter(|detail| !detail.is_empty());
        Self { code: code.to_owned(), peer: Some(peer.to_owned()), detail, since_ms: 0 }
    }

    /// What makes it the same one.
    pub fn key(&self) -> (&str, Option<&str>) {
        (&self.code, self.peer.as_deref())
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.code)?;
        if let Some(peer) = &self.peer {
            write!(f, ": {peer}")?;
        }
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, " {detail}"))
    }
}

/// Since when each reason holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Since(BTreeMap<(String, Option<String>), u64>);

impl Since {
    /// Dates the reasons that hold now, and forgets the others.
    pub(super) fn date(&mut self, reasons: &mut [Reason], now_ms: u64) {
        let before = std::mem::take(&mut self.0);
        for reason in reasons {
            let key = (reason.code.clone(), reason.peer.clone());
            reason.since_ms = before.get(&key).copied().unwrap_or(now_ms);
            self.0.insert(key, reason.since_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_keeps_its_date_while_its_numbers_change_and_gets_a_new_one_after_a_break() {
        let mut since = Since::default();
        let mut dated = |detail: Option<&str>, now_ms: u64| {
            let of =
                |detail: &str| vec![Reason::own("cold_mesh"), Reason::of_peer("catching_up", "b", detail.to_owned())];
            let mut reasons = detail.map_or_else(|| vec![Reason::own("cold_mesh")], of);
            since.date(&mut reasons, now_ms);
            reasons.iter().map(|reason| (reason.to_string(), reason.since_ms)).collect::<Vec<_>>()
        };
        let cold = |at| ("cold_mesh".to_owned(), at);
        assert_eq!(dated(Some("1/9"), 10), [cold(10), ("catching_up: b 1/9".to_owned(), 10)]);
        assert_eq!(dated(Some("2/9"), 20), [cold(10), ("catching_up: b 2/9".to_owned(), 10)]);
        assert_eq!(dated(None, 30), [cold(10)]);
        assert_eq!(dated(Some(""), 40), [cold(10), ("catching_up: b".to_owned(), 40)]);
    }
}
