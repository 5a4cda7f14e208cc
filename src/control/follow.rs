//! Routes of the events.

use super::answer::{Failed, documented};
use super::events::{self, About, Wanted};
use super::extract::{Named, Params};
use super::openapi::about;
use super::router::Daemon;
use super::runs::OneRun;
use super::sweeps::OneSweep;
use crate::protocol::api::Event;
use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use aide::generate::GenContext;
use aide::openapi::{Operation, Response as Documented};
use aide::operation::OperationOutput;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;

/// The routes.
pub fn routes() -> ApiRouter<Daemon> {
    ApiRouter::new()
        .api_route(
            "/v1/events",
            get_with(all, about("Events of all runs, as they happen")),
        )
        .api_route(
            "/v1/runs/{id}/events",
            get_with(of_run, about("Events of one run, until it ends")),
        )
        .api_route(
            "/v1/sweeps/{id}/events",
            get_with(
                of_sweep,
                about("Events of one sweep and its runs, until it ends"),
            ),
        )
}

/// Which events.
#[derive(Deserialize, JsonSchema)]
struct Which {
    /// Those after the event with this id, 0 for all that are kept; absent, only those to
    /// come. The header `Last-Event-ID` goes first.
    since: Option<u64>,
    /// Those that were stored since then: milliseconds since 1970.
    from_time: Option<i64>,
    /// Those of these kinds only: names with commas between them.
    kinds: Option<String>,
    /// None of these kinds: names with commas between them.
    except: Option<String>,
    /// False for those that are there, and then an end; true where absent.
    follow: Option<bool>,
}

impl Which {
    fn wanted(self, about: About, headers: &HeaderMap) -> Wanted {
        let header = headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let names = |list: Option<String>| {
            let list = list.unwrap_or_default();
            let names = list.split(',').filter(|name| !name.is_empty());
            names.map(str::to_owned).collect()
        };
        Wanted {
            about,
            after: header.and_then(|id| id.parse().ok()).or(self.since),
            from_time: self.from_time,
            kinds: names(self.kinds),
            except: names(self.except),
            only_past: self.follow == Some(false),
        }
    }
}

/// A stream of events: each has its id, its kind, and its JSON as data.
struct Stream(Response);

impl IntoResponse for Stream {
    fn into_response(self) -> Response {
        self.0
    }
}

impl OperationOutput for Stream {
    type Inner = Event;

    fn inferred_responses(
        ctx: &mut GenContext,
        _: &mut Operation,
    ) -> Vec<(Option<u16>, Documented)> {
        vec![(Some(200), documented::<Event>(ctx, "text/event-stream"))]
    }
}

async fn of_run(
    State(daemon): State<Daemon>,
    Named(one): Named<OneRun>,
    Params(which): Params<Which>,
    headers: HeaderMap,
) -> Result<Stream, Failed> {
    follow(daemon, which.wanted(About::Run(one.id()?), &headers)).await
}

async fn of_sweep(
    State(daemon): State<Daemon>,
    Named(one): Named<OneSweep>,
    Params(which): Params<Which>,
    headers: HeaderMap,
) -> Result<Stream, Failed> {
    follow(daemon, which.wanted(About::Sweep(one.id()?), &headers)).await
}

async fn all(
    State(daemon): State<Daemon>,
    Params(which): Params<Which>,
    headers: HeaderMap,
) -> Result<Stream, Failed> {
    follow(daemon, which.wanted(About::All, &headers)).await
}

async fn follow(daemon: Daemon, wanted: Wanted) -> Result<Stream, Failed> {
    let events = events::stream(daemon.store, &daemon.live, wanted).await?;
    let events = Sse::new(events).keep_alive(KeepAlive::default());
    Ok(Stream(events.into_response()))
}
