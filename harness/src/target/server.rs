//! What the server of an Inflight mount says of itself.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// Attribute of the root of a mount; `inflight stat` shows it.
const REPORT: &str = "user.inflight.stat";

/// The server's report.
///
/// # Errors
/// `mountpoint` is not the root of an Inflight mount.
pub fn report(mountpoint: &Path) -> anyhow::Result<Value> {
    let what = || format!("{}: no report of an Inflight server", mountpoint.display());
    let value = xattr::get(mountpoint, REPORT).with_context(what)?.with_context(what)?;
    serde_json::from_slice(&value).with_context(what)
}
