//! Whether the engine has been there all the while. One that is restarted between two questions looks as if
//! its containers had ended by themselves.

use std::collections::HashMap;

use bollard::errors::Error;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt as _;

use super::engine::Engine;

/// Resolves when the engine's stream of events ends, which it does only with the engine. Never if it has
/// no such stream.
pub(super) async fn ended(engine: &Engine) {
    let Ok(client) = engine.client() else { return };
    // The events of the engine itself: next to none. They are not looked at.
    let filters = HashMap::from([("type".to_owned(), vec!["daemon".to_owned()])]);
    let options = EventsOptions { filters: Some(filters), ..EventsOptions::default() };
    let mut events = std::pin::pin!(client.events(Some(options)));
    while let Some(event) = events.next().await {
        match event {
            Ok(_) => {}
            // Something between here and the engine does not pass them on.
            Err(Error::DockerResponseServerError { .. }) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
