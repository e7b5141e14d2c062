//! The ledger: reservations in bytes, with the rules by which they wait, grow and are refused.

/// Who asks for room; each class has its own queue and share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BudgetClass {
    /// Build tools; waits are bounded.
    Client,
    /// Catching up from peers; at most 75 % of the ledger, waits as long as it takes.
    CatchUp,
}
