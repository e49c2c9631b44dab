//! `golem version`

use serde_json::json;

use crate::app::App;
use crate::error::Result;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn run(app: &App<'_>) -> Result<()> {
    if app.ui.is_json() {
        app.ui.json(&json!({ "version": VERSION }))
    } else {
        app.ui.line(&format!("golem {VERSION}"))
    }
}
