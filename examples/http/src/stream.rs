//! Live changes as server-sent events. A stream pulls when it begins, at each wake-up, and every POLL_SECONDS. A wake-up is only a hint:
//! the cursor decides which changes are sent, so that no change is lost or sent twice.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Query, Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::time::sleep;

use crate::App;
use crate::auth::{Caller, header};
use crate::db::Page;
use crate::error::Error;
use crate::routes::json;
use crate::wake::Subscription;

#[derive(Deserialize)]
struct StreamQuery {
    /// The names of tables, separated by commas. If there are none, the stream has all tables.
    collections: Option<String>,
    since: Option<String>,
}

/// Sends each page of changes as an event `change`, until the token expires. The id of the event is the cursor of the page.
pub async fn stream(State(app): State<Arc<App>>, request: Request) -> Result<Response, Error> {
    let (mut parts, _) = request.into_parts();
    let caller = Caller::from_request_parts(&mut parts, &app).await?;
    let query = Query::<StreamQuery>::try_from_uri(&parts.uri)?;
    let names = query.collections.iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty());
    // A client that connects again sends Last-Event-ID, which is newer than `since` in the URL.
    let cursor = header(&parts, "last-event-id")?.map(str::to_string).or(query.since.clone());
    let (subscription, collections) = (app.wake.subscribe(), names.map(str::to_string).collect());
    let mut reader = Reader { app, caller, collections, cursor, spaces: None, subscription };

    // The first pull precedes the answer, so that an error can have its own status.
    let first = reader.pull().await?;
    if first.resync {
        return Ok(json(true, first.body.unwrap_or_default()));
    }
    let events = async_stream::stream! {
        let mut page: Result<Page, Error> = Ok(first);
        loop {
            let mut has_more = false;
            match page {
                Ok(page) => {
                    if let Some(body) = page.body {
                        let name = if page.resync { "resync" } else { "change" };
                        yield Ok::<_, Infallible>(Event::default().event(name).id(page.synced_until).data(body));
                    }
                    if page.resync {
                        break;
                    }
                    has_more = page.has_more;
                }
                // The next pull that succeeds returns these changes.
                Err(error) if error.is_temporary() => {}
                Err(error) => {
                    yield Ok(Event::default().event("error").data(error.body()));
                    break;
                }
            }
            if !has_more {
                tokio::select! {
                    () = reader.subscription.woken() => {}
                    () = sleep(reader.app.poll) => {}
                    () = sleep(reader.caller.remaining()) => {}
                }
            }
            if reader.caller.remaining().is_zero() {
                break;
            }
            page = reader.pull().await;
        }
    };
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// The state of a stream: the caller, the tables that it pulls, and its cursor.
struct Reader {
    app: Arc<App>,
    caller: Caller,
    collections: Vec<String>,
    cursor: Option<String>,
    /// The spaces whose channels the stream is subscribed to. `None` until a subscription succeeds.
    spaces: Option<Vec<String>>,
    subscription: Subscription,
}

impl Reader {
    /// Pulls the next page. Looks up the memberships of the user before, because they may have changed, and adapts the channels of the
    /// subscription.
    async fn pull(&mut self) -> Result<Page, Error> {
        let db = &self.app.db;
        let mut spaces = db.spaces(&self.caller).await?;
        spaces.sort();
        if self.spaces.as_ref() != Some(&spaces) {
            // If this fails, the stream still pulls by its timer. The next pull tries again to subscribe.
            if let Ok(channels) = db.channels(&self.caller, &spaces).await {
                self.subscription.set(channels);
                self.spaces = Some(spaces.clone());
            }
        }
        let page = db.page(&self.caller, &self.cursor, &spaces, &self.collections).await?;
        self.cursor = Some(page.synced_until.clone());
        Ok(page)
    }
}
