//! Changes as they come, as server-sent events: a pull when the stream begins, whenever a wake-up comes and every
//! POLL_SECONDS. A wake-up is a hint and the cursor decides, so that nothing is lost or sent twice.

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
    /// Names of tables, separated by commas; none means all.
    collections: Option<String>,
    since: Option<String>,
}

/// Sends each page of changes as an event `change` whose id is its cursor, until the token expires.
pub async fn stream(State(app): State<Arc<App>>, request: Request) -> Result<Response, Error> {
    let (mut parts, _) = request.into_parts();
    let caller = Caller::from_request_parts(&mut parts, &app).await?;
    let query = Query::<StreamQuery>::try_from_uri(&parts.uri)?;
    let names = query.collections.iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty());
    // What a client sends that lost its connection is newer than the address.
    let cursor = header(&parts, "last-event-id")?.map(str::to_string).or(query.since.clone());
    let (subscription, collections) = (app.wake.subscribe(), names.map(str::to_string).collect());
    let mut reader = Reader { app, caller, collections, cursor, spaces: None, subscription };

    // Before the answer begins, so that an error has its status.
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
                // What it would have brought comes with the next pull that succeeds.
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

/// A stream's side of the database.
struct Reader {
    app: Arc<App>,
    caller: Caller,
    collections: Vec<String>,
    cursor: Option<String>,
    /// The spaces whose channels it is subscribed to, once that succeeded.
    spaces: Option<Vec<String>>,
    subscription: Subscription,
}

impl Reader {
    /// The next page. Memberships may have changed: they are looked up again, and the channels with them.
    async fn pull(&mut self) -> Result<Page, Error> {
        let db = &self.app.db;
        let mut spaces = db.spaces(&self.caller).await?;
        spaces.sort();
        if self.spaces.as_ref() != Some(&spaces) {
            // Without channels the timer is left; the next pull tries again.
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
