//! The routes. Each route passes the body of a request to SQL, and the answer of SQL back to the client, both unchanged.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::App;
use crate::auth::Caller;
use crate::db::{Answer, PullQuery};
use crate::error::Error;
use crate::stream::stream;

/// The largest body of a request, in bytes.
const LARGEST_BODY: usize = 10 * 1024 * 1024;

/// Returns the router with all routes.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/sync/{app}", post(sync))
        .route("/sync/{app}/pull", get(pull))
        .route("/sync/{app}/stream", get(stream))
        .route("/health", get(health))
        .fallback(async || Error::new(StatusCode::NOT_FOUND, "there is nothing here"))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(Arc::new(app))
}

async fn sync(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    let body = body?;
    let changeset = std::str::from_utf8(&body).map_err(|_| Error::bad_request("the body is not UTF-8"))?;
    let Answer { body, resync, .. } = app.db.sync(&caller, changeset).await?;
    Ok(json(resync, body))
}

/// Pulls a page. The entity tag of the answer is the cursor of the page. A client may send the tag of its last answer in If-None-Match, in
/// place of `since` or in addition to it. If nothing new came, the answer is then 304 without a body.
async fn pull(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    query: Result<Query<PullQuery>, QueryRejection>,
) -> Result<Response, Error> {
    let Query(mut query) = query?;
    let condition = headers.get(header::IF_NONE_MATCH);
    if let (None, Some(tag)) = (&query.since, condition) {
        let cursor = tag.to_str().ok().and_then(cursor_of);
        let bad = || Error::bad_request("If-None-Match without since must be the ETag of one answer");
        query.since = Some(cursor.ok_or_else(bad)?.into());
    }
    let Answer { body, synced_until, resync, nothing_new } = app.db.pull(&caller, &query).await?;
    let mut response = match condition {
        Some(_) if nothing_new => StatusCode::NOT_MODIFIED.into_response(),
        _ => json(resync, body),
    };
    // A cache that kept an answer would send its tag for a device that has lost its data and asks for all of it without
    // `since`. The device would then get only what is new. What is not stored needs no Vary either.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // By RFC 9110, section 15.4.5, a 304 has the ETag that a 200 to the same request would have. That is the new cursor,
    // because the cursor moves even where nothing came. A client that keeps its old tag loses nothing: whatever comes
    // after the new cursor comes after the old one too.
    if let Some(tag) = tag_of(&synced_until).filter(|_| !resync) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Returns the cursor in an If-None-Match header that has exactly one tag. The tag may be weak (`W/`), because a proxy that compresses an
/// answer makes it so.
fn cursor_of(tag: &str) -> Option<&str> {
    let tag = tag.trim();
    let quoted = tag.strip_prefix("W/").unwrap_or(tag);
    quoted.strip_prefix('"')?.strip_suffix('"').filter(|cursor| !cursor.contains('"'))
}

/// Returns the entity tag of an answer. Returns `None` if `cursor` has a character that a tag must not have: it may be a timestamp that the
/// client sent as `since` and gets back.
fn tag_of(cursor: &str) -> Option<HeaderValue> {
    let is_allowed = cursor.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    HeaderValue::try_from(format!("\"{cursor}\"")).ok().filter(|_| is_allowed)
}

async fn health(State(app): State<Arc<App>>) -> Result<Response, Error> {
    app.db.check().await?;
    Ok(json(false, r#"{"status":"ok"}"#.into()))
}

/// Creates an answer from a JSON text. The status is 409 if the client must begin again, and 200 otherwise.
pub fn json(resync: bool, body: String) -> Response {
    let status = if resync { StatusCode::CONFLICT } else { StatusCode::OK };
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
