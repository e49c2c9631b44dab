//! `golem id`

use serde_json::json;

use crate::app::App;
use crate::error::Result;

pub(super) fn run(app: &App<'_>) -> Result<()> {
    let id = app.key()?.id();
    if app.ui.is_json() { app.ui.json(&json!({ "id": id })) } else { app.ui.line(&id.to_string()) }
}
